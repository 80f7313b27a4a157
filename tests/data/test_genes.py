import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from vaekit.data.cells.genes import GeneSelection, check_shared_genes, highly_variable_genes, match_genes
from vaekit.exceptions import DataError

COUNTS = np.random.default_rng(0).negative_binomial(2, 0.3, size=(80, 30)).astype(np.float32)


def matrix(values=COUNTS) -> sparse.csr_matrix:
    return sparse.csr_matrix(values)


def test_variable_genes_are_found_in_order():
    values = np.random.default_rng(0).poisson(10, size=(200, 400)).astype(np.float32)
    for gene in (31, 5, 17):  # the same mean, in one half of the cells alone
        values[:100, gene], values[100:, gene] = 2 * values[:100, gene], 0
    assert highly_variable_genes(matrix(values), 3, "file").tolist() == [5, 17, 31]


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


@pytest.mark.parametrize(
    ("genes", "wanted", "hint"),
    [
        (
            ["Actb", "Cd3d", "x", "y"],
            ["ACTB", "CD3D", "MALAT1"],
            "2 would match if case is ignored",
        ),
        (["ENSG01.4", "ENSG02.1"], ["ENSG01", "ENSG02"], "2 would match without the Ensembl version"),
        (["ENSG01", "ENSG02"], ["ENSG01.4", "ENSG02.1"], "2 would match without the Ensembl version"),
        (["1", "2"], ["s1", "s2"], r"2 would match with adata.var_names = adata.var\['symbol'\]"),
    ],
)
def test_too_few_shared_genes_say_why(genes, wanted, hint):
    var = pd.DataFrame({"symbol": [f"s{name}" for name in genes]}, index=genes)
    message = rf"file has 0 of the checkpoint's {len(wanted)} genes; at least half.*{hint}.*{wanted[0]}.*{genes[0]}"
    with pytest.raises(DataError, match=message):
        check_shared_genes(genes, wanted, "file", var)


def test_half_of_the_genes_is_enough():
    check_shared_genes(["a", "b"], ["a", "b", "c", "d"], "file", pd.DataFrame(index=["a", "b"]))


VERSIONED = [f"ENSG{number:011d}.{number + 3}" for number in range(8)]
BARE = [name.split(".")[0] for name in VERSIONED]
OTHER = [f"ENSG{number:011d}.{number + 9}" for number in range(8)]


@pytest.mark.parametrize("genes", [VERSIONED, BARE, OTHER, [*BARE[:4], *OTHER[4:]]])
@pytest.mark.parametrize("wanted", [VERSIONED, BARE, [*VERSIONED[:4], *BARE[4:]]])
def test_ensembl_versions_are_matched_and_told_of(genes, wanted):
    """Whichever side has them; equal names come first, and other genes keep theirs."""
    shuffled = [*genes[3:], "MALAT1.1", "AC012345.1", *genes[:3]]
    right = [*wanted[3:], "MALAT1.1", "AC012345.1", *wanted[:3]]
    number = sum(one != other for one, other in zip(genes, wanted, strict=True))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert match_genes(shuffled, wanted, "file", pd.DataFrame(index=shuffled)) == right
    assert len(caught) == (number > 0)
    if number:
        assert f"file: {number} of the checkpoint's 8 genes were matched without the version" in str(caught[0].message)


def test_an_equal_name_comes_before_another_version():
    genes = ["ENSG1.2", "ENSG1", "ENSG2.1"]
    assert match_genes(genes, ["ENSG1", "ENSG2.1"], "file", pd.DataFrame(index=genes)) == genes


@pytest.mark.parametrize(
    ("genes", "wanted"),
    [
        (["ENSG1.1", "ENSG1.2", "ENSG2"], ["ENSG1", "ENSG2"]),
        (["ENSMUSG1", "ENSMUSG2"], ["ENSMUSG1.1", "ENSMUSG1.2", "ENSMUSG2"]),
    ],
)
def test_two_versions_of_one_gene_are_rejected(genes, wanted):
    with pytest.raises(DataError, match=r"1\.1, ENS[A-Z]+1\.2.*differ only in the version of the Ensembl identifier"):
        match_genes(genes, wanted, "file", pd.DataFrame(index=genes))


@pytest.mark.parametrize("name", ["ENSG1_PAR_Y", "AC012345.1", "gene.1", "ENSG1.a"])
def test_other_names_with_a_dot_are_not_versions(name):
    genes = ["ENSG1", "AC012345", "gene", "a"]
    assert match_genes(genes, [*genes, name], "file", pd.DataFrame(index=genes)) == genes
