"""Genes that cells share with a checkpoint: names that match, limits, and messages that say what to do."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

from vaekit.data.cells.shared_genes import match_genes
from vaekit.exceptions import DataError


def match(genes, wanted, var=None, mean=None, key=None):
    var = pd.DataFrame(index=genes) if var is None else var
    return match_genes(genes, wanted, np.ones(len(wanted)) if mean is None else mean, "file", var, key)


@pytest.mark.parametrize(
    ("genes", "wanted", "hint"),
    [
        (
            ["Actb", "Cd3d", "x", "y"],
            ["ACTB", "CD3D", "MALAT1"],
            "2 would match if case is ignored",
        ),
        (["1", "2"], ["s1", "s2"], r"2 would match with adata.var_names = adata.var\['symbol'\]"),
    ],
)
def test_too_few_shared_genes_say_why(genes, wanted, hint):
    var = pd.DataFrame({"symbol": [f"s{name}" for name in genes]}, index=genes)
    message = rf"file has 0 of the checkpoint's {len(wanted)} genes, which carry 0 %.*{hint}.*{wanted[0]}.*{genes[0]}"
    with pytest.raises(DataError, match=message):
        match(genes, wanted, var)


def test_enough_genes_with_enough_counts():
    """At least a tenth of the genes with a fifth of the counts; below four fifths, the message says what helps."""
    genes = [f"g{i}" for i in range(20)]
    mean = np.array([8.0, *[1.0] * 19]) / 27
    for names, message in (
        (genes[:1], r"file has 1 of the checkpoint's 20 genes, which carry 30 % of its training counts; at least 10 %"),
        (
            genes[1:6],
            r"file has 5 of the .* carry 19 % .*with 20 % of the counts.*train on the shared ones",
        ),
    ):
        with pytest.raises(DataError, match=message):
            match(names, genes, mean=mean)
    for names, advice in ((genes[:3], True), (genes[:14], True), (genes[:15], False)):
        with pytest.warns(
            UserWarning, match=rf"has {len(names)} genes of the .*lacks {20 - len(names)} of the"
        ) as caught:
            match(names, genes, mean=mean)
        assert ("train on the shared ones" in str(caught[0].message)) == advice
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        match([*genes[::-1], "other"], genes, mean=mean)


def test_identifiers_against_symbols():
    ids, symbols = [f"ENSG{i:011d}" for i in range(5)], ["CD3D", "LYZ", "NKG7", "MS4A1", "PPBP"]
    with pytest.raises(DataError, match=r"by Ensembl identifiers, and these cells by symbols: set adata\.var_names to"):
        match(symbols, ids)
    with pytest.raises(DataError, match=r"by symbols, and .* by Ensembl.*: set adata.var_names to symbols"):
        match(ids, symbols)
    with pytest.raises(DataError, match=r"names genes by \.var\['gene_ids'\] \(gene_name_key\), which these"):
        match(symbols, ids, key="gene_ids")


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
        assert match(shuffled, wanted) == right
    assert len(caught) == (number > 0)
    if number:
        assert f"file: {number} of the checkpoint's 8 genes were matched without the version" in str(caught[0].message)


def test_an_equal_name_comes_before_another_version():
    genes = ["ENSG1.2", "ENSG1", "ENSG2.1"]
    assert match(genes, ["ENSG1", "ENSG2.1"]) == genes


@pytest.mark.parametrize(
    ("genes", "wanted"),
    [
        (["ENSG1.1", "ENSG1.2", "ENSG2"], ["ENSG1", "ENSG2"]),
        (["ENSMUSG1", "ENSMUSG2"], ["ENSMUSG1.1", "ENSMUSG1.2", "ENSMUSG2"]),
    ],
)
def test_two_versions_of_one_gene_are_rejected(genes, wanted):
    with pytest.raises(DataError, match=r"1\.1, ENS[A-Z]+1\.2.*differ only in the version of the Ensembl identifier"):
        match(genes, wanted)


@pytest.mark.parametrize("name", ["ENSG1_PAR_Y", "AC012345.1", "gene.1", "ENSG1.a"])
def test_other_names_with_a_dot_are_not_versions(name):
    genes = ["ENSG1", "AC012345", "gene", "a"]
    assert match(genes, [*genes, name]) == genes
