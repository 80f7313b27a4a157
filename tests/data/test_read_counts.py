import warnings

import numpy as np
import pytest
import scanpy as sc
from anndata import AnnData
from scipy import sparse

from vaekit.data.cells.query import warn_empty
from vaekit.exceptions import DataError

from .reading import read_counts

COUNTS = np.random.default_rng(1).poisson(1.0, size=(12, 6))


def adata(values, **kwargs) -> AnnData:
    made = AnnData(values, **kwargs)
    made.var_names = [f"g{i}" for i in range(made.n_vars)]
    made.obs_names = [f"c{i}" for i in range(made.n_obs)]
    return made


FORMS = [np.asarray, sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array, sparse.csc_array]
DTYPES = ["float32", "float64", "int64", "int32", "uint8", "uint16", "bool"]


@pytest.mark.parametrize(
    ("form", "dtype"),
    [(form, dtype) for form in FORMS for dtype in DTYPES] + [(np.asarray, "float16")],  # none such in scipy
)
def test_every_form_and_type_gives_the_same(form, dtype):
    values = COUNTS.astype(dtype)
    counts, genes = read_counts(adata(form(values)), None, "file")
    assert sparse.isspmatrix_csr(counts)
    assert counts.dtype == np.float32
    assert counts.has_canonical_format
    np.testing.assert_array_equal(counts.toarray(), values.astype(np.float32))
    assert genes == [f"g{i}" for i in range(6)]


def test_stored_zeros_and_duplicates_are_merged_in_a_copy():
    matrix = sparse.csr_matrix(
        (np.array([1, 0, 2, 3], dtype=np.float32), np.array([2, 1, 2, 0]), np.array([0, 3, 4])), shape=(2, 3)
    )
    counts, _ = read_counts(given := adata(matrix), None, "file")
    assert counts.toarray().tolist() == [[0, 0, 3], [3, 0, 0]]
    assert counts.nnz == 2
    assert given.X.nnz == 4


def test_layers_and_raw():
    given = adata(COUNTS.astype(np.float32))
    given.raw = given.copy()
    given = given[:, :4].copy()
    given.layers["double"] = 2 * given.X
    assert read_counts(given, "double", "file")[0].toarray().tolist() == (2 * COUNTS[:, :4]).tolist()
    counts, genes = read_counts(given, "raw", "file")
    np.testing.assert_array_equal(counts.toarray(), COUNTS)
    assert len(genes) == 6


def test_views_work():
    given = adata(sparse.csr_matrix(COUNTS))
    np.testing.assert_array_equal(read_counts(given[2:5, ::2], None, "file")[0].toarray(), COUNTS[2:5, ::2])


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, r"one value is NaN, the first nan in cell 'c7' \(row 7\), gene 'g2'"),
        (np.inf, r"one value is infinite, the first inf in cell 'c7' \(row 7\), gene 'g2'"),
        (-3.0, r"one value is negative, the first -3 in cell 'c7' \(row 7\), gene 'g2'"),
        (
            0.5,
            r"one value is not whole, the first 0.5 in cell 'c7' \(row 7\), gene 'g2'.*look like estimated counts",
        ),
        (2.0**24 + 1, r"too large to be exact in float32, the first 16777217 in cell 'c7'"),
        (1e300, r"too large to be exact in float32"),
    ],
)
def test_values_that_are_no_counts(form, value, message):
    values = COUNTS.astype(np.float64)
    values[7, 2] = value
    with pytest.raises(DataError, match=r"file, \.X must hold counts: .*" + message):
        read_counts(adata(form(values)), None, "file")


def test_large_but_exact_counts_pass():
    values = COUNTS.astype(np.int64)
    values[0, 0] = 2**30
    assert read_counts(adata(values), None, "file")[0].max() == 2**30


def test_negative_integers():
    with pytest.raises(DataError, match="one value is negative, the first -1 "):
        read_counts(adata(np.array([[1, -1]])), None, "file")


@pytest.mark.parametrize("place", ["layer", "raw", "X", "nowhere"])
def test_says_where_the_counts_are(place):
    given = adata(COUNTS.astype(np.float32) + 1)
    plain = given.copy()
    sc.pp.normalize_total(given, target_sum=1e4)
    sc.pp.log1p(given)
    layer = None
    if place == "layer":
        given.layers["umi"] = plain.X
        given.layers["smooth"] = plain.X / 3
        hint = r"pass layer='umi'\.$"
    elif place == "raw":
        given.raw = plain
        hint = r"pass layer='raw'\.$"
    elif place == "X":
        given.layers["logged"], given.X, layer = given.X, plain.X, "logged"
        hint = r"omit layer \(\.X\)\.$"
    else:
        hint = r"No other matrix of these cells can be read as counts"
    with pytest.raises(DataError, match=r"log-normalized: log1p of counts scaled to 1e\+04 per cell\. .*" + hint):
        read_counts(given, layer, "file")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: np.log1p(x) / 3, "look log-normalized"),
        (
            lambda x: np.log2(1 + x),
            r"look log2-transformed: log2\(1 \+ x\) of counts. Rounding numpy.exp2\(x\) - 1 gives",
        ),
        (lambda x: np.log2(1 + 40 * x).astype(np.float32), "look log2-transformed"),
        (np.log1p, r"look log-transformed: log\(1 \+ x\) of counts. Rounding numpy.expm1\(x\) gives"),
        (lambda x: np.log10(1 + x), r"log10-transformed: .*Rounding 10\*\*x - 1"),
        (np.sqrt, r"like square roots: .*Rounding x\*\*2"),
        (lambda x: np.where(x == 1, 1.3, x), "values are whole. They look like estimated counts"),
        (lambda x: 100 * x / 3.01, "look normalized"),
        (lambda x: x - 2.5, "look scaled or batch-corrected"),
    ],
)
def test_says_what_values_look_like(change, message):
    with pytest.raises(DataError, match=message):
        read_counts(adata(change(COUNTS + 1.0)), None, "file")


def test_missing_layer_names_the_nearest():
    given = adata(COUNTS)
    given.layers["counts"] = COUNTS
    with pytest.raises(DataError, match=r"layer='count' not found in file. [Dd]id you mean 'counts'\?"):
        read_counts(given, "count", "file")
    with pytest.raises(DataError, match=r"layer='raw' not found in file"):
        read_counts(given, "raw", "file")


def test_no_x_at_all():
    given = AnnData(shape=(3, 2), layers={"counts": np.ones((3, 2))})
    with pytest.raises(DataError, match=r"file has no \.X\. Counts are available: pass layer='counts'"):
        read_counts(given, None, "file")


def test_duplicate_gene_names():
    given = adata(COUNTS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anndata's own
        given.var_names = ["a", "b", "a", "c", "b", "a"]
    with pytest.raises(DataError, match=r"\.X: 2 gene names occur more than once, such as a, b. .*make_unique"):
        read_counts(given, None, "file")


@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
def test_nothing_there(shape):
    with pytest.raises(DataError, match=f"{shape[0]} cells and {shape[1]} genes"):
        read_counts(adata(np.zeros(shape, dtype=np.float32)), None, "file")


def test_values_that_are_no_numbers():
    given = adata(COUNTS)
    given.layers["text"] = COUNTS.astype(object)
    with pytest.raises(DataError, match=r"\.layers\['text'\]: values of type object are not numbers. Counts"):
        read_counts(given, "text", "file")


def test_empty_cells_are_one_warning():
    with pytest.warns(UserWarning, match="3 of 10 cells have no counts") as caught:
        warn_empty(np.arange(10) // 3, "file")
    assert len(caught) == 1
