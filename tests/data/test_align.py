import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse

from vaekit.data import GeneExpressionData
from vaekit.exceptions import DataError

from .reading import read_query


@pytest.fixture
def reference(make_adata):
    return GeneExpressionData(make_adata(), batch_key="batch", label_key="cell_type").state_dict()


@pytest.fixture
def plain(make_adata):
    return GeneExpressionData(make_adata()).state_dict()


def test_permuted_genes_come_back_in_order(tmp_path, make_adata, reference):
    adata = make_adata(cells=11, seed=3)
    permuted = adata[:, np.random.default_rng(0).permutation(20)].copy()
    permuted.write_h5ad(tmp_path / "query.h5ad")
    query = read_query(str(tmp_path / "query.h5ad"), reference, batch_key="batch", label_key="cell_type")
    np.testing.assert_array_equal(query.dataset.__getitems__(list(range(11))).x, adata.X.toarray())
    assert query.missing_genes == []
    assert query.obs_names == list(adata.obs_names)
    assert query.labels.tolist() == adata.obs["cell_type"].tolist()
    assert query.label_categories == ["B", "NK", "T"]
    assert query.adata.shape == (11, 20)


def test_missing_genes_are_unobserved_and_named_in_one_warning(make_adata):
    data = GeneExpressionData(make_adata())
    adata = make_adata(cells=9, seed=3)
    kept = [i for i in range(20) if i not in (4, 7)]
    fewer = adata[:, kept].copy()
    with pytest.warns(
        UserWarning, match=r"lacks 2 of the checkpoint's 20 genes.* as unobserved: gene4, gene7$"
    ) as caught:
        query = read_query(fewer, data.state_dict())
    assert len(caught) == 1
    assert query.missing_genes == ["gene4", "gene7"]
    batch = query.dataset.__getitems__(list(range(9)))
    np.testing.assert_array_equal(batch.x[:, kept], adata.X.toarray()[:, kept])
    assert batch.observed.tolist() == [[i in kept for i in range(20)]] * 9
    # the total is what it would be with the training cells' composition
    share = (data.mean[kept].sum() / data.mean.sum()).item()
    np.testing.assert_allclose(batch.size_factor[:, 0], adata.X.toarray()[:, kept].sum(1) / share, rtol=1e-6)
    assert batch.covariates is None
    assert batch.label is None


def test_given_size_factors_stay_where_genes_are_missing(make_adata):
    cells = make_adata()
    cells.obs["depth"] = np.linspace(1, 3, 60)
    state = GeneExpressionData(cells, size_factor_key="depth").state_dict()
    whole = read_query(cells, state).dataset.size_factor
    with pytest.warns(UserWarning, match="lacks 5"):
        query = read_query(cells[:, :15].copy(), state)
    assert query.dataset.size_factor.equal(whole)


def test_genes_unknown_to_the_checkpoint_do_not_count(make_adata):
    state = GeneExpressionData(make_adata(), n_top_genes=6).state_dict()
    adata = make_adata(cells=9, seed=3)
    batch = read_query(adata, state).dataset.__getitems__([2])
    kept = [int(name.removeprefix("gene")) for name in state["feature_names"]]
    assert batch.size_factor.item() == max(1, adata.X.toarray()[2, kept].sum())


def test_batches_take_the_checkpoints_numbers(make_adata, reference):
    adata = make_adata(cells=4)
    adata.obs["lane"] = ["b2", "b2", "b2", "b1"]
    query = read_query(adata, reference, batch_key="lane")
    assert query.dataset.covariates.tolist() == [[0, 1], [0, 1], [0, 1], [1, 0]]
    adata.obs["lane"] = "b3"
    with pytest.raises(DataError, match=r"are unknown to the checkpoint: 'b3'. It knows 'b1', 'b2'"):
        read_query(adata, reference, batch_key="lane")
    with pytest.raises(DataError, match=r"batch_key='batch' not found in \.obs of AnnData in memory"):
        read_query(AnnData(adata.X, var=adata.var), reference)


def test_too_few_shared_genes(make_adata, plain):
    adata = make_adata()
    adata.var_names = [name.upper() for name in adata.var_names]
    with pytest.raises(DataError, match=r"0 of the checkpoint's 20 genes.*20 would match if case.*gene0.*GENE0"):
        read_query(adata, plain)


def test_counts_are_checked_and_empty_cells_warned_of(make_adata, plain):
    adata = make_adata()
    adata.layers["half"] = adata.X / 2
    with pytest.raises(DataError, match=r"not whole.*omit layer"):
        read_query(adata, plain, layer="half")
    adata.X = sparse.csr_matrix(adata.shape, dtype=np.float32)
    with pytest.raises(DataError, match=r"none of the 60 cells has counts"):
        read_query(adata, plain)
    adata.X[5, 0] = 3
    with pytest.warns(UserWarning, match=r"59 of 60 cells have no counts .* \(rows 0, 1, 2, \.\.\.\)"):
        query = read_query(adata, plain)
    assert query.dataset.size_factor.ravel().tolist() == [1] * 5 + [3] + [1] * 54


def test_query_is_not_changed(make_adata, plain):
    adata = make_adata()
    before = adata.copy()
    read_query(adata[:, ::-1].copy(), plain)
    read_query(adata, plain)
    assert (adata.X != before.X).nnz == 0
    assert list(adata.obsm) == []


def test_reference_of_something_else(make_adata):
    with pytest.raises(DataError, match=r"registry lacks \['feature_names', 'gene_name_key', .*'batch_categories'"):
        read_query(make_adata(), {"fingerprint": "0"})
