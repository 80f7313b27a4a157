"""Several covariates: their columns, what a checkpoint keeps of them, and how a query is read by it."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from vaekit.data import GeneExpressionData
from vaekit.exceptions import DataError

from .reading import read_query

COLUMNS = {"categorical_covariate_keys": ["donor", "lane"], "continuous_covariate_keys": ["age", "mito"]}


@pytest.fixture
def cells(make_adata):
    """Cells with two categorical and two continuous columns."""
    adata = make_adata()
    rng = np.random.default_rng(1)
    adata.obs["donor"] = pd.Categorical(np.array(["d2", "d1", "d3"])[rng.permutation(60) % 3])
    adata.obs["lane"] = rng.integers(1, 3, 60)
    adata.obs["age"] = rng.integers(20, 80, 60)
    adata.obs["mito"] = rng.beta(2, 30, 60).astype(np.float32)
    return adata


def test_columns_are_batch_then_categories_then_numbers(cells):
    data = GeneExpressionData(cells, batch_key="batch", **COLUMNS)
    assert data.covariates == 2 + 3 + 2 + 2
    found = data.dataset.__getitems__(torch.arange(60)).covariates
    obs = cells.obs
    for column, level in enumerate(["b1", "b2"]):
        assert (found[:, column].numpy() == (obs["batch"] == level)).all()
    for column, level in enumerate(["d1", "d2", "d3"], start=2):
        assert (found[:, column].numpy() == (obs["donor"] == level)).all()
    for column, level in enumerate([1, 2], start=5):
        assert (found[:, column].numpy() == (obs["lane"] == level)).all()
    train = data.split_indices["train"].numpy()
    for column, key in enumerate(["age", "mito"], start=7):
        values = obs[key].to_numpy(dtype=np.float64)
        wanted = (values - values[train].mean()) / values[train].std()
        np.testing.assert_allclose(found[:, column], wanted, rtol=1e-5, atol=1e-6)
    state = data.state_dict()
    assert state["batch_categories"] == ["b1", "b2"]
    assert state["categorical_covariate_keys"] == {"donor": ["d1", "d2", "d3"], "lane": ["1", "2"]}
    assert list(state["continuous_covariate_keys"]) == ["age", "mito"]
    assert state["continuous_covariate_keys"]["age"] == pytest.approx(
        [obs["age"].iloc[train].mean(), obs["age"].iloc[train].std(ddof=0)]
    )


def test_covariates_without_batches(cells):
    data = GeneExpressionData(cells, continuous_covariate_keys=["age"])
    assert (data.covariates, data.batch_categories, data.statistics.num_batches) == (1, [], 0)
    assert data.dataset[0].covariates.shape == (1, 1)


def test_a_state_gives_the_same_columns(cells, tmp_path):
    cells.write_h5ad(tmp_path / "cells.h5ad")
    arguments = {"path": str(tmp_path / "cells.h5ad"), "batch_key": "batch", "size_factor_key": "age", **COLUMNS}
    data = GeneExpressionData(**arguments)
    torch.save(data.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    again = GeneExpressionData(**arguments)
    again.load_state_dict(state)
    for field, other in zip(data.dataset[3][:5], again.dataset[3][:5], strict=True):
        assert field is other is None or field.equal(other)
    for key in ("mean", "continuous_covariate_keys", "categorical_covariate_keys", "size_factor_scale"):
        assert str(again.state_dict()[key]) == str(state[key])
    fewer = GeneExpressionData(path=arguments["path"], batch_key="batch", size_factor_key="age")
    fewer.load_state_dict(state)
    with pytest.raises(
        DataError,
        match=r"categorical_covariate_keys has 0 columns, but the checkpoint was trained with 'donor', 'lane'",
    ):
        fewer.setup()


def test_a_query_is_read_in_the_same_way(cells, make_adata):
    data = GeneExpressionData(cells, batch_key="batch", **COLUMNS)
    state = data.state_dict()
    query = read_query(cells[:7].copy(), state, batch_key="batch")
    assert query.dataset.covariates.equal(data.dataset.covariates[:7])
    other = cells[:7].copy()
    other.obs = other.obs.rename(columns={"donor": "patient", "age": "years"})
    names = {"categorical_covariate_keys": ["patient", "lane"], "continuous_covariate_keys": ["years", "mito"]}
    assert read_query(other, state, batch_key="batch", **names).dataset.covariates.equal(data.dataset.covariates[:7])
    with pytest.raises(DataError, match=r"categorical_covariate_keys='donor' not found in \.obs of AnnData in memory"):
        read_query(other, state, batch_key="batch")


def test_a_query_that_does_not_fit(cells):
    state = GeneExpressionData(cells, **COLUMNS).state_dict()

    def query(change=lambda obs: obs, **arguments):
        adata = cells[:9].copy()
        adata.obs = change(adata.obs)
        return read_query(adata, state, **arguments)

    with pytest.raises(
        DataError, match=r"'donor': .* has categories that are unknown to the checkpoint: 'd9'. It knows 'd1'"
    ):
        query(lambda obs: obs.assign(donor="d9"))
    with pytest.raises(DataError, match=r"'donor': 9 of 9 cells of .* have no category \(NaN\)"):
        query(lambda obs: obs.assign(donor=np.nan))
    with pytest.raises(DataError, match=r"'age': 9 of 9 cells .* NaN"):
        query(lambda obs: obs.assign(age=np.nan))
    with pytest.raises(DataError, match=r"has 1 columns, but the checkpoint was trained with 'age', 'mito'. Pass 2"):
        query(continuous_covariate_keys=["age"])
    plain = GeneExpressionData(cells).state_dict()
    with pytest.raises(DataError, match=r"has 1 columns, but the checkpoint was trained without any. Pass 0"):
        read_query(cells, plain, continuous_covariate_keys=["age"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"categorical_covariate_keys": "donor"},
            r"categorical_covariate_keys='donor' must be a list of columns: \['donor'\]",
        ),
        ({"categorical_covariate_keys": ["donor"], "batch_key": "donor"}, "the column 'donor' is named twice"),
        ({"continuous_covariate_keys": ["age", "age"]}, "the column 'age' is named twice"),
    ],
)
def test_impossible_names(arguments, message):
    with pytest.raises(DataError, match=message):
        GeneExpressionData(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"categorical_covariate_keys": ["doner"]}, "categorical_covariate_keys='doner'.*Did you mean 'donor'"),
        ({"continuous_covariate_keys": ["agee"]}, "continuous_covariate_keys='agee'.*Did you mean 'age'"),
        ({"continuous_covariate_keys": ["donor"]}, "continuous_covariate_keys='donor': .*type category, such as"),
        (
            {"categorical_covariate_keys": ["mito"]},
            "categorical_covariate_keys='mito': .*60 different values in 60 cells",
        ),
        ({"size_factor_key": "ages"}, "size_factor_key='ages'.*Did you mean 'age'"),
        ({"size_factor_key": "donor"}, "size_factor_key='donor': .*type category"),
        ({"gene_name_key": "id"}, "gene_name_key='id' not found in .var"),
    ],
)
def test_columns_that_do_not_fit(cells, arguments, message):
    with pytest.raises(DataError, match=message):
        GeneExpressionData(cells, **arguments).setup()


def test_columns_that_tell_nothing_are_warned_of(cells):
    cells.obs["site"], cells.obs["dose"] = "here", 1.5
    data = GeneExpressionData(cells, categorical_covariate_keys=["site"], continuous_covariate_keys=["dose"])
    with pytest.warns(UserWarning, match="it gives the model no information") as caught:
        data.setup()
    texts = [str(warning.message) for warning in caught]
    assert texts[0].startswith("categorical_covariate_keys='site': all cells of AnnData in memory are 'here'")
    assert texts[1].startswith(
        "continuous_covariate_keys='dose': all training cells of AnnData in memory have the value 1"
    )
    assert data.dataset[0].covariates.tolist() == [[1, 0]]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        read_query(cells[:4].copy(), data.state_dict())


def test_a_level_without_training_cells_is_warned_of(cells):
    held_out = GeneExpressionData(cells).split_indices["test"].numpy()
    cells.obs["run"] = np.where(np.isin(np.arange(60), held_out), "late", "early")
    for arguments in ({"batch_key": "run"}, {"categorical_covariate_keys": ["run"]}):
        data = GeneExpressionData(cells, **arguments)
        with pytest.warns(UserWarning, match=r"='run': 'late' without training cells in AnnData in memory"):
            data.setup()
        assert data.statistics.log_size_factor.isfinite().all()


def test_size_factors_keep_their_proportions(cells):
    totals = cells.X.toarray().sum(1)
    cells.obs["umi"], cells.obs["scran"] = totals * 3.5, totals / totals.mean()
    plain = GeneExpressionData(cells)
    for key in ("umi", "scran"):
        data = GeneExpressionData(cells, size_factor_key=key)
        torch.testing.assert_close(data.dataset.size_factor, plain.dataset.size_factor)
        query = read_query(cells[:5].copy(), data.state_dict())
        torch.testing.assert_close(query.dataset.size_factor, plain.dataset.size_factor[:5])
        other = cells[:5].copy()
        other.obs["sf"] = other.obs.pop(key)
        query = read_query(other, data.state_dict(), size_factor_key="sf")
        torch.testing.assert_close(query.dataset.size_factor, plain.dataset.size_factor[:5])
    for bad in (0.0, -1.0, np.inf, np.nan):
        cells.obs["umi"] = cells.obs["umi"].where(cells.obs_names != "cell7", bad)
        with pytest.raises(DataError, match=r"size_factor_key='umi': 1 of 60 cells .*in cell 'cell7'"):
            GeneExpressionData(cells, size_factor_key="umi").setup()
    with pytest.raises(DataError, match="trained with total counts as size factors"):
        read_query(cells, plain.state_dict(), size_factor_key="scran")


def test_moments_are_of_the_training_cells_by_batch(cells):
    data = GeneExpressionData(cells, batch_key="batch")
    train = data.split_indices["train"].numpy()
    x = cells.X.toarray().astype(np.float64)[train]
    np.testing.assert_allclose(data.statistics.mean, x.mean(0), rtol=1e-6)
    np.testing.assert_allclose(data.statistics.mean_log1p, np.log1p(x).mean(0), rtol=1e-6)
    for row, level in enumerate(["b1", "b2"]):
        log_size = np.log(x[(cells.obs["batch"] == level).to_numpy()[train]].sum(1))
        np.testing.assert_allclose(data.statistics.log_size_factor[row], [log_size.mean(), log_size.std()], rtol=1e-5)
    assert data.statistics.num_batches == 2


def test_genes_are_named_by_a_column(cells):
    cells.var["gene_ids"] = [f"ENSG{i:011d}" for i in range(20)]
    data = GeneExpressionData(cells, gene_name_key="gene_ids", n_top_genes=8)
    assert all(name.startswith("ENSG") for name in data.feature_names)
    state = data.state_dict()
    x = data.dataset[0].x
    assert read_query(cells[:1].copy(), state).dataset[0].x.equal(x)  # by the same column
    ids = cells[:1].copy()
    ids.var_names = ids.var.pop("gene_ids").to_list()
    assert read_query(ids, state).dataset[0].x.equal(x)  # by var_names
    renamed = cells[:1].copy()
    renamed.var = renamed.var.rename(columns={"gene_ids": "ensembl"})
    with pytest.raises(DataError, match=r"8 would match with adata.var_names = adata.var\['ensembl'\]"):
        read_query(renamed, state)
    assert read_query(renamed, state, gene_name_key="ensembl").dataset[0].x.equal(x)
    raw = cells.copy()
    raw.raw = cells
    raw.X = raw.X / 2
    assert (
        GeneExpressionData(raw, layer="raw", gene_name_key="gene_ids", n_top_genes=8).feature_names
        == data.feature_names
    )


def test_genes_without_or_with_the_same_name(cells):
    cells.var["symbol"] = ["A", "A", *"BCDEFGHIJKLMNOPQRS"]
    with pytest.raises(DataError, match=r"1 gene name \(gene_name_key='symbol'\) occurs more than once, such as A"):
        GeneExpressionData(cells, gene_name_key="symbol").setup()
    cells.var["symbol"] = [None, *"ABCDEFGHIJKLMNOPQRS"]
    with pytest.raises(
        DataError, match=r"gene_name_key='symbol': 1 of 20 genes .*have no name \(NaN\), the first is gene 0 .*'gene0'"
    ):
        GeneExpressionData(cells, gene_name_key="symbol").setup()
