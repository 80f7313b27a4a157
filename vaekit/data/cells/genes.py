"""Which genes are modelled: chosen by variability, or aligned by name to those of a checkpoint."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from vaekit._core.threads import keep_threads
from vaekit.exceptions import DataError

if TYPE_CHECKING:
    import pandas as pd
    from scipy import sparse

HVG_CELLS = 20_000  # training cells to choose among, so that it does not depend on what fits into memory


def highly_variable_genes(counts: sparse.csr_matrix, n_top_genes: int, source: str) -> np.ndarray:
    """Return the sorted columns of the most variable genes.

    Scanpy's ``highly_variable_genes(flavor="seurat")`` on normalised, log-transformed counts: the dispersion,
    standardised among genes of a similar mean (Satija et al., "Spatial reconstruction of single-cell gene
    expression data", 2015). ``flavor="seurat_v3"`` would need one more dependency (skmisc).

    Parameters
    ----------
    counts
        Counts of the *training* cells alone, CSR ``[cells, genes]``.
    n_top_genes
        Number of genes.
    source
        What to call the data in messages.

    Raises
    ------
    DataError
        If fewer genes vary.
    """
    import scanpy as sc
    from anndata import AnnData

    if not 1 <= n_top_genes <= counts.shape[1]:
        raise DataError(f"n_top_genes={n_top_genes}: {source} has {counts.shape[1]} genes; pass 1 to that number")
    filled = counts[np.asarray(counts.sum(axis=1)).ravel() > 0]
    expressed = np.flatnonzero(filled.getnnz(axis=0))
    if n_top_genes > len(expressed):
        raise DataError(
            f"n_top_genes={n_top_genes}: only {len(expressed)} genes of {source} have counts in training cells"
        )
    if n_top_genes == len(expressed):
        return expressed
    keep_threads()
    cells = AnnData(filled[:, expressed].copy())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of bins with one gene, which the method provides for
        sc.pp.normalize_total(cells, target_sum=1e4)
        sc.pp.log1p(cells)
        table = sc.pp.highly_variable_genes(cells, flavor="seurat", inplace=False)
    # Ranked here: scanpy's own mark takes in all genes that tie with the last, and fails if none varies.
    dispersion = np.nan_to_num(table["dispersions_norm"].to_numpy(dtype=np.float64), nan=-np.inf)
    return np.sort(expressed[np.argsort(-dispersion, kind="stable")[:n_top_genes]])


def align_genes(counts: sparse.csr_matrix, genes: list[str], wanted: list[str]) -> tuple[sparse.csr_matrix, list[str]]:
    """Return the counts of the ``wanted`` genes in their order, and the names of those not there (zeros)."""
    from scipy import sparse

    if genes == wanted:
        return counts, []
    column = {name: number for number, name in enumerate(genes)}
    target = np.array([number for number, name in enumerate(wanted) if name in column], dtype=np.int64)
    found = counts[:, [column[wanted[number]] for number in target]].sorted_indices()
    shape = (counts.shape[0], len(wanted))
    aligned = sparse.csr_matrix((found.data, target[found.indices], found.indptr), shape=shape)
    return aligned, [name for name in wanted if name not in column]


def match_genes(genes: list[str], wanted: list[str], source: str, var: pd.DataFrame) -> list[str]:
    """Return ``genes`` with the names that ``wanted`` has for them.

    Names are equal, or Ensembl identifiers that differ in their version alone.

    Parameters
    ----------
    genes, var
        Names of the genes of the data, and their table.
    wanted
        Names of the genes of the checkpoint.
    source
        Name of the data in messages.

    Warns
    -----
    UserWarning
        If versions differ.

    Raises
    ------
    DataError
        If two genes differ in their version alone and it is not clear which one is meant, or fewer than half of
        ``wanted`` are there.
    """
    matched = rename_versions(genes, wanted, source)
    check_shared_genes(matched, wanted, source, var)
    renamed = [(old, new) for old, new in zip(genes, matched, strict=True) if old != new]
    if renamed:
        warnings.warn(
            f"{source}: {len(renamed)} of the checkpoint's {len(wanted)} genes were found without the version of their "
            f"Ensembl identifier, such as {renamed[0][0]} for {renamed[0][1]}.",
            UserWarning,
            stacklevel=3,
        )
    return matched


def rename_versions(genes: list[str], wanted: list[str], source: str) -> list[str]:
    """Return ``genes`` with the names in ``wanted`` of those that differ in the Ensembl version alone.

    Raises
    ------
    DataError
        If it is not clear which gene is meant.
    """
    have = set(genes)
    missing = _by_stem(name for name in wanted if name not in have)
    spare = _by_stem(have.difference(wanted)) if missing else {}
    renamed = {}
    for stem, names in missing.items():
        if stem not in spare:
            continue
        if len(names) + len(spare[stem]) > 2:
            raise DataError(
                f"{source} has {', '.join(sorted(spare[stem]))} and the checkpoint {', '.join(names)}, which differ in "
                "the version of the Ensembl identifier alone: which gene is which is not clear. Rename or remove genes "
                "of the data."
            )
        renamed[spare[stem][0]] = names[0]
    return [renamed.get(name, name) for name in genes] if renamed else genes


def unversioned(name: str) -> str:
    """Return an Ensembl identifier without its version, any other name as it is.

    Examples
    --------
    >>> unversioned("ENSG00000141510.17"), unversioned("AC012345.1"), unversioned("ENSG00000182378.14_PAR_Y")
    ('ENSG00000141510', 'AC012345.1', 'ENSG00000182378.14_PAR_Y')
    """
    return re.sub(r"^(ENS[A-Z]*\d+)\.\d+$", r"\1", name)


def _by_stem(names: Iterable[str]) -> dict[str, list[str]]:
    """Return Ensembl identifiers by their stem, which has no version."""
    found: dict[str, list[str]] = {}
    for name in names:
        if re.match(r"ENS[A-Z]*\d+(\.\d+)?$", name):
            found.setdefault(unversioned(name), []).append(name)
    return found


def check_shared_genes(genes: list[str], wanted: list[str], source: str, var: pd.DataFrame) -> None:
    """Check that at least half of the ``wanted`` genes are among ``genes``.

    Raises
    ------
    DataError
        If fewer are; it says so where names differ only in case or in their Ensembl version, or where another
        column of ``var`` has them.
    """
    wanted_names = set(wanted)
    shared = len(wanted_names & set(genes))
    if 2 * shared >= len(wanted):
        return
    others = {
        "if upper and lower case were the same": (_upper(genes), _upper(wanted)),
        "without the Ensembl version (.1, .2, ...)": (set(map(unversioned, genes)), set(map(unversioned, wanted))),
    }
    for key in var.columns:
        others[f"with adata.var_names = adata.var[{str(key)!r}]"] = (set(var[key].astype(str)), wanted_names)
    would = {how: len(have & want) for how, (have, want) in others.items()}
    best = max(would, key=lambda how: would[how])
    hint = f"; {would[best]} would match {best}" if would[best] > shared else ""
    raise DataError(
        f"{source} has {shared} of the checkpoint's {len(wanted)} genes; at least half are needed{hint}. "
        f"The checkpoint has {', '.join(wanted[:5])}, ...; {source} has {', '.join(genes[:5])}, ..."
    )


def _upper(names: list[str]) -> set[str]:
    return {name.upper() for name in names}
