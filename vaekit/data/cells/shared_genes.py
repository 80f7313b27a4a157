"""Genes that cells share with a checkpoint: how many, how much of the counts, and what to do about the others."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from vaekit.data.cells.genes import rename_versions
from vaekit.exceptions import DataError

if TYPE_CHECKING:
    import pandas as pd

MIN_GENES, MIN_COUNTS = 0.1, 0.2  # fractions of the genes, and of their training counts, to place a cell
FEW_COUNTS = 0.8  # below this fraction, a model of the shared genes is better
NUM_EXAMPLES = 5  # names in a message


def match_genes(
    names: Sequence[str], genes: Sequence[str], mean: np.ndarray, source: str, var: pd.DataFrame, key: str | None = None
) -> list[str]:
    """Return ``names`` with the Ensembl versions of ``genes``, the genes of a checkpoint; warn if some genes lack.

    Parameters
    ----------
    names : sequence of str
        Genes of the cells.
    genes : sequence of str
        Genes of the checkpoint.
    mean : ndarray, shape (genes,)
        Mean training count of each gene of the checkpoint.
    source : str
        Name of the cells in messages.
    var : DataFrame
        Table of the genes of the cells.
    key : str or None
        Column with the names of the checkpoint's training data.

    Warns
    -----
    UserWarning
        If genes are missing, or were matched without their version.

    Raises
    ------
    DataError
        If a gene without its version is ambiguous, or the shared genes are fewer than a tenth of ``genes`` or have less
        than a fifth of their training counts.
    """
    matched = rename_versions(names, genes, source)
    present = np.isin(np.asarray(genes), np.asarray(matched))
    carried = float(mean[present].sum() / max(mean.sum(), np.finfo(np.float64).tiny))
    counts = f"{carried:.0%} of its training counts".replace("%", " %")
    if not present.all():
        remedy = _remedy(matched, genes, var, key)
        if present.mean() < MIN_GENES or carried < MIN_COUNTS:
            raise DataError(
                f"{source} has {present.sum()} of the checkpoint's {len(genes)} genes, which carry {counts}; at least "
                f"{_percent(MIN_GENES)} of the genes with {_percent(MIN_COUNTS)} of the counts are needed.{remedy} The "
                f"checkpoint has {_examples(genes)}; {source} has {_examples(names)}"
            )
        if carried >= FEW_COUNTS and not _better_names(matched, genes, var):
            remedy = ""
        missing = [gene for gene, found in zip(genes, present, strict=True) if not found]
        warnings.warn(
            f"{source} has {present.sum()} genes of the checkpoint, which carry {counts}.{remedy} It lacks "
            f"{len(missing)} of the checkpoint's {len(genes)} genes; they are treated as unobserved: "
            f"{_examples(missing)}",
            UserWarning,
            stacklevel=4,
        )
    renamed = [(old, new) for old, new in zip(names, matched, strict=True) if old != new]
    if renamed:
        warnings.warn(
            f"{source}: {len(renamed)} of the checkpoint's {len(genes)} genes were matched without the version of "
            f"their Ensembl identifier, such as {renamed[0][0]} for {renamed[0][1]}.",
            UserWarning,
            stacklevel=4,
        )
    return matched


def _remedy(names: Sequence[str], genes: Sequence[str], var: pd.DataFrame, key: str | None) -> str:
    """Return sentences on the reason for missing genes, as far as the names show it, and on what to do."""
    if better := _better_names(names, genes, var):
        return f" {better}"
    sentences = []
    if key is not None and key not in var.columns:
        sentences.append(f"The checkpoint names genes by .var[{key!r}] (gene_name_key), which these cells lack.")
    kinds = [np.mean([_is_ensembl(name) for name in group]) > 0.5 for group in (genes, names)]
    if kinds[0] != kinds[1]:
        words = [("Ensembl identifiers" if is_ensembl else "symbols") for is_ensembl in kinds]
        sentences.append(
            f"The checkpoint names genes by {words[0]}, and these cells by {words[1]}: set adata.var_names to "
            f"{words[0]}."
        )
    else:
        sentences.append(
            "If these are all genes that were measured, train on the shared ones: "
            "reference[:, reference.var_names.isin(adata.var_names)].copy()."
        )
    return " " + " ".join(sentences)


def _better_names(names: Sequence[str], genes: Sequence[str], var: pd.DataFrame) -> str:
    """Return a sentence on other names that would match more genes: a column, another case; "" without any."""
    expected = set(genes)
    num_shared = len(expected & set(names))
    num_matches = {
        "if case is ignored": len({name.upper() for name in names} & {name.upper() for name in genes}),
    }
    for column in var.columns:
        remedy = f"with adata.var_names = adata.var[{str(column)!r}]"
        num_matches[remedy] = len(set(var[column].astype(str)) & expected)
    best = max(num_matches, key=lambda remedy: num_matches[remedy])
    return f"{num_matches[best]} would match {best}." if num_matches[best] > num_shared else ""


def _is_ensembl(name: str) -> bool:
    return re.match(r"ENS[A-Z]*\d+", name) is not None


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.0f} %"


def _examples(names: Sequence[str]) -> str:
    return ", ".join(names[:NUM_EXAMPLES]) + (", ..." if len(names) > NUM_EXAMPLES else "")
