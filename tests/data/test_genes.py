import numpy as np
import pytest
from scipy import sparse

from vaekit.data.cells.genes import GeneSelection, highly_variable_genes
from vaekit.exceptions import DataError

COUNTS = np.random.default_rng(0).negative_binomial(2, 0.3, size=(80, 30)).astype(np.float32)


def matrix(values=COUNTS) -> sparse.csr_matrix:
    return sparse.csr_matrix(values)


def test_variable_genes_are_found_in_order():
    values = np.random.default_rng(0).poisson(10, size=(200, 400)).astype(np.float32)
    for gene in (31, 5, 17):  # the same mean, in one half of the cells alone
        values[:100, gene], values[100:, gene] = 2 * values[:100, gene], 0
    assert highly_variable_genes(matrix(values), 3, "file").tolist() == [5, 17, 31]


def test_genes_have_the_largest_variance_of_logarithms():
    values = COUNTS * np.random.default_rng(1).uniform(0.1, 9, 30).round()
    values[3] = 0  # an empty cell does not count
    cells = np.delete(values, 3, axis=0)
    variance = np.log1p(1e4 * cells / cells.sum(1, keepdims=True)).var(0)
    assert highly_variable_genes(matrix(values), 9, "file").tolist() == sorted(np.argsort(-variance)[:9])


@pytest.mark.parametrize("number", [1, 7, 29, 30])
def test_exactly_as_many_as_asked(number):
    columns = highly_variable_genes(matrix(), number, "file")
    assert len(columns) == number
    assert (np.diff(columns) > 0).all()


def test_ties_and_empty_cells_and_genes():
    values = np.zeros((20, 8), dtype=np.float32)
    values[:15, :6] = np.tile(np.arange(15)[:, None] % 3 + 1, (1, 6))
    columns = highly_variable_genes(matrix(values), 2, "file")
    assert len(columns) == 2
    with pytest.raises(DataError, match="must not exceed 6, the number of genes of file with counts"):
        highly_variable_genes(matrix(values), 7, "file")


@pytest.mark.parametrize("number", [0, -1, 31])
def test_impossible_numbers(number):
    with pytest.raises(DataError, match=rf"n_top_genes={number} must lie in 1\.\.30, the number of genes of file"):
        highly_variable_genes(matrix(), number, "file")


def test_alignment_permutes_and_fills_with_zeros():
    genes = [f"g{i}" for i in range(30)]
    aligned = GeneSelection.by_name(genes, ["g7", "new", "g2", "g29", "other"]).take(matrix())
    assert aligned.has_canonical_format
    expected = np.zeros((80, 5))
    expected[:, [0, 2, 3]] = COUNTS[:, [7, 2, 29]]
    np.testing.assert_array_equal(aligned.toarray(), expected)


def test_no_shared_gene():
    aligned = GeneSelection.by_name([f"g{i}" for i in range(30)], ["x", "y"]).take(matrix())
    assert aligned.shape == (80, 2)
    assert aligned.nnz == 0
