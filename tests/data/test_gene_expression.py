import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from vaekit.data import GeneExpressionData
from vaekit.exceptions import DataError


def test_default_is_pbmc68k_with_its_labels():
    with warnings.catch_warnings():
        warnings.filterwarnings("error", category=UserWarning)
        data = GeneExpressionData()
        assert (data.num_cells, data.features, data.covariates) == (700, 765, 0)
    assert data.kind == "counts"
    assert "CD56+ NK" in data.label_categories
    assert data.description.endswith("700 cells x 765 genes, in memory, train/val/test 560/70/70")
    assert data.config["init_args"]["label_key"] == "bulk_labels"


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix, np.asarray, lambda x: x.astype(np.int64)])
def test_forms_give_the_same_data(make_adata, form):
    reference = GeneExpressionData(make_adata(), label_key="cell_type")
    data = GeneExpressionData(make_adata(form=form), label_key="cell_type")
    assert data.fingerprint == reference.fingerprint
    assert data.mean.equal(reference.mean)
    for one, other in zip(data.val_dataloader(), reference.val_dataloader(), strict=True):
        assert one.x.equal(other.x)


def test_batches_hold_what_the_file_holds(tmp_path, make_adata):
    adata = make_adata()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    before = (tmp_path / "cells.h5ad").read_bytes()
    data = GeneExpressionData(
        path=str(tmp_path / "cells.h5ad"), batch_key="batch", label_key="cell_type", batch_size=16
    )
    assert (data.features, data.covariates, data.num_cells) == (20, 2, 60)
    assert data.batch_categories == ["b1", "b2"]
    assert data.label_categories == ["B", "NK", "T"]
    assert data.labels.tolist() == adata.obs["cell_type"].tolist()
    assert data.obs_names == list(adata.obs_names)
    counts = adata.X.toarray()
    seen = []
    for batch in data.train_dataloader():
        rows = batch.index.numpy()
        np.testing.assert_array_equal(batch.x, counts[rows])
        np.testing.assert_array_equal(batch.size_factor[:, 0], counts[rows].sum(1))
        assert batch.covariates.argmax(1).tolist() == (rows % 2).tolist()
        assert [data.label_categories[code] for code in batch.label] == data.labels[rows].tolist()
        seen += rows.tolist()
    assert sorted(seen) == data.split_indices["train"].tolist()
    np.testing.assert_allclose(data.mean, counts[data.split_indices["train"].numpy()].mean(0), rtol=1e-6)
    assert (tmp_path / "cells.h5ad").read_bytes() == before


def test_all_cells_in_order_for_prediction(make_adata):
    data = GeneExpressionData(make_adata(), batch_size=7)
    index = torch.cat([batch.index for batch in data.predict_dataloader()])
    assert index.equal(torch.arange(60))
    assert torch.cat([batch.index for batch in data.dataloader("test", batch_size=2)]).equal(data.split_indices["test"])


def test_order_follows_the_global_seed(make_adata):
    data = GeneExpressionData(make_adata(), batch_size=8)

    def order(seed):
        torch.manual_seed(seed)
        return [torch.cat([batch.index for batch in data.train_dataloader()]) for _ in range(2)]

    first, second = order(1)
    assert not first.equal(second)
    assert first.equal(order(1)[0])
    assert second.equal(order(1)[1])


def test_given_adata_is_not_changed(make_adata):
    adata = make_adata()
    adata.X.indices[:2] = adata.X.indices[:2][::-1].copy()  # unsorted, as some files are
    adata.X.has_sorted_indices = False
    before = adata.copy()
    data = GeneExpressionData(adata, label_key="cell_type", batch_key="batch", n_top_genes=5)
    data.state_dict()
    for name in ("data", "indices", "indptr"):
        np.testing.assert_array_equal(getattr(adata.X, name), getattr(before.X, name))
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    pd.testing.assert_frame_equal(adata.var, before.var)
    assert data.adata is adata
    assert list(filter(None, adata.layers)) == list(adata.uns) == []  # anndata 0.13 lists X as the layer None


def test_nan_labels_and_classes_with_one_cell(make_adata):
    adata = make_adata()
    labels = adata.obs["cell_type"].astype(object).to_numpy(copy=True)
    labels[:5], labels[7], labels[8] = np.nan, "alone", "alone too"
    adata.obs["cell_type"] = labels
    data = GeneExpressionData(adata, label_key="cell_type")
    assert data.label_categories == ["B", "NK", "T", "alone", "alone too"]
    assert data.labels[:5].tolist() == [None] * 5
    assert data.dataset.__getitems__([0, 7]).label.tolist() == [-1, 3]


def test_split_is_stratified_and_seeded(make_adata):
    adata = make_adata(cells=300)
    data = GeneExpressionData(adata, label_key="cell_type")
    for rows in data.split_indices.values():
        assert np.ptp(np.unique(data.labels[rows.numpy()], return_counts=True)[1]) <= 1
    again, other = (GeneExpressionData(adata, label_key="cell_type", seed=seed) for seed in (0, 1))
    assert data.split_indices["test"].equal(again.split_indices["test"])
    assert not data.split_indices["test"].equal(other.split_indices["test"])


def test_variable_genes_come_from_training_cells_alone(make_adata):
    adata = make_adata(cells=200, genes=50)
    data = GeneExpressionData(adata, n_top_genes=10)
    assert data.features == 10
    positions = [adata.var_names.get_loc(name) for name in data.feature_names]
    assert positions == sorted(positions)

    held_out = torch.cat([data.split_indices["val"], data.split_indices["test"]]).numpy()
    changed = adata.copy()
    dense = changed.X.toarray()
    unused = [column for column in range(50) if column not in positions]
    dense[held_out[:, None], unused] *= np.arange(len(held_out))[:, None] * 20  # wildly variable, outside training
    changed.X = sparse.csr_matrix(dense)
    other = GeneExpressionData(changed, n_top_genes=10)
    assert other.feature_names == data.feature_names
    assert other.fingerprint != data.fingerprint

    dense[data.split_indices["train"].numpy()[:, None], unused] *= (np.arange(160) % 2)[:, None] * 20
    changed.X = sparse.csr_matrix(dense)
    assert GeneExpressionData(changed, n_top_genes=10).feature_names != data.feature_names


def test_empty_cells_are_kept_with_one_warning(make_adata):
    adata = make_adata()
    dense = adata.X.toarray()
    dense[[3, 9]] = 0
    adata.X = sparse.csr_matrix(dense)
    data = GeneExpressionData(adata)
    with pytest.warns(UserWarning, match="2 of 60 cells have no counts in the modeled genes") as caught:
        data.setup("fit")
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.load_state_dict(data.state_dict())
    batch = data.dataset.__getitems__([3, 9])
    assert batch.size_factor.tolist() == [[1], [1]]
    assert batch.size_factor.log().isfinite().all()


def test_layer_and_raw(make_adata):
    adata = make_adata()
    adata.layers["umi"] = adata.X.copy()
    adata.raw = adata.copy()
    reference = GeneExpressionData(adata).fingerprint
    adata.X = adata.X / 2.5
    assert GeneExpressionData(adata, layer="umi").fingerprint == reference
    assert GeneExpressionData(adata, layer="raw").fingerprint == reference
    with pytest.raises(DataError, match=r"pass layer='umi' or pass layer='raw'"):
        GeneExpressionData(adata).setup()


def test_reading_waits_until_it_is_needed(tmp_path):
    data = GeneExpressionData(path=str(tmp_path / "later.h5ad"))
    with pytest.raises(DataError, match=r"later.h5ad does not exist"):
        _ = data.features


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "a.h5ad", "adata": anndata.AnnData(np.ones((2, 2)))}, r"both given"),
        ({"adata": "a.h5ad"}, r"adata='a.h5ad' is a path. Pass it as path="),
        ({"layer": "counts"}, r"layer='counts' requires path or adata"),
        ({"split": (0.5, 0.5, 0.5)}, r"sum to 1"),
        ({"batch_size": 0}, r"batch_size=0 must be at least 1"),
    ],
)
def test_impossible_arguments(arguments, message):
    with pytest.raises(DataError, match=message):
        GeneExpressionData(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label_key": "cell_tipe"}, r"label_key='cell_tipe': cells.h5ad|[Dd]id you mean 'cell_type'"),
        ({"batch_key": "batches"}, r"batch_key='batches'.*[Dd]id you mean 'batch'"),
        ({"layer": "umi"}, r"layer='umi' not found"),
        ({"n_top_genes": 21}, r"n_top_genes=21 must lie in 1..20"),
    ],
)
def test_arguments_that_do_not_fit_the_file(tmp_path, make_adata, arguments, message):
    make_adata().write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(DataError, match=message):
        GeneExpressionData(path=str(tmp_path / "cells.h5ad"), **arguments).setup()


def test_too_few_cells(make_adata):
    with pytest.raises(DataError, match="of 4 observations leaves"):
        GeneExpressionData(make_adata(cells=4)).setup()


def test_unknown_split(make_adata):
    with pytest.raises(DataError, match=r"split='vall' is unknown. [Dd]id you mean 'val'"):
        GeneExpressionData(make_adata()).dataloader("vall")
