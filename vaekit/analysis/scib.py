"""Scores of batch integration and of conserved cell types, computed by scib-metrics."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from vaekit.exceptions import DataError, MissingPackageError

if TYPE_CHECKING:
    import pandas as pd

PACKAGES = {"scib_metrics": "scib-metrics", "harmonypy": "harmonypy"}  # by module: the extra "metrics"
MIN_CELLS = 91  # LISI compares a cell with 90 neighbors
BIO, CORRECTION, TOTAL = "Bio conservation", "Batch correction", "Total"  # aggregates, as scib-metrics names them


def check_packages() -> None:
    """Check that the packages of the extra ``metrics`` are installed, without an import.

    Raises
    ------
    MissingPackageError
        If one is missing.
    """
    if missing := [name for module, name in PACKAGES.items() if find_spec(module) is None]:
        names, verb = " and ".join(missing), "is" if len(missing) == 1 else "are"
        raise MissingPackageError(
            f'Integration scores need {names}, which {verb} not installed. Run: pip install "vaekit[metrics]"'
        )


def repeated_labels(labels: np.ndarray, source: str) -> np.ndarray:
    """Return which cells have a label that occurs at least twice; check that these are enough for all scores.

    The silhouette of a label with one cell is undefined, and it would be the most isolated label.

    Parameters
    ----------
    labels : ndarray, shape (cells,)
        Labels of the labeled cells, of any type.
    source : str
        Name of the data in messages.

    Returns
    -------
    ndarray of bool, shape (cells,)
        Cells to score.

    Raises
    ------
    DataError
        If they are fewer than 91, or have fewer than two labels.

    Examples
    --------
    >>> repeated_labels(np.repeat(["T", "B", "NK"], [50, 50, 1]), "cells.h5ad").sum()
    np.int64(100)
    """
    names, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    is_scored = counts[index] > 1
    if is_scored.sum() < MIN_CELLS:
        raise DataError(
            f"{source} has {is_scored.sum()} cells with a label that occurs twice, but integration scores need at "
            f"least {MIN_CELLS}: each cell is compared with its {MIN_CELLS - 1} nearest neighbors. Pass more cells."
        )
    if (counts > 1).sum() < 2:
        raise DataError(
            f"{source}: all {is_scored.sum()} cells have the label {str(names[counts > 1][0])!r}, but integration "
            "scores need at least two labels. Pass another label_key."
        )
    return is_scored


def scored_batches(labels: np.ndarray, batches: np.ndarray | None) -> np.ndarray | None:
    """Return the batches, or None if no label occurs in two of them, so that their mixing cannot be scored.

    Examples
    --------
    >>> scored_batches(np.array(["T", "T", "T", "B"]), np.array([1, 1, 2, 2]))
    array([1, 1, 2, 2])
    >>> scored_batches(np.array(["T", "T", "T", "B"]), np.array([1, 1, 1, 2])) is None
    True
    """
    if batches is None:
        return None
    for label in np.unique(labels):
        members = batches[labels == label]
        if 1 < len(np.unique(members)) < len(members):
            return batches
    return None


def scib_scores(
    embeddings: Mapping[str, np.ndarray],
    unintegrated: np.ndarray,
    labels: np.ndarray,
    batches: np.ndarray | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Score embeddings of the same cells by the default metrics of scib-metrics, which are not rescaled.

    The metrics follow ``scib_metrics.benchmark.Benchmarker`` (Luecken et al., 2022, Benchmarking atlas-level data
    integration in single-cell genomics). All are between 0 and 1, and higher is better. "Bio conservation" and "Batch
    correction" are means of their metrics, and "Total" is 0.6 times the first plus 0.4 times the second. Without
    batches there is "Bio conservation" only, without its isolated labels, which depend on batches.

    Parameters
    ----------
    embeddings : Mapping[str, ndarray], each of shape (cells, dimensions)
        Embeddings by name.
    unintegrated : ndarray, shape (cells, components)
        Embedding before any correction of batches, the reference of the principal component regression.
    labels : ndarray, shape (cells,)
        Cell type of each cell. Cells whose label occurs once are ignored.
    batches : ndarray or None, shape (cells,)
        Batch of each cell.
    progress : bool
        Whether to show progress bars.

    Returns
    -------
    DataFrame
        One row per embedding, one column per metric, then the aggregates.

    Raises
    ------
    DataError
        If an embedding contains values that are not finite, or there are too few cells or labels.
    MissingPackageError
        If the extra ``metrics`` is not installed.
    """
    check_packages()
    kept = repeated_labels(labels, "scib_scores: labels")
    labels, batches = labels[kept], None if batches is None else batches[kept]
    for name, values in embeddings.items():
        if not np.isfinite(values).all():
            raise DataError(f"embedding {name!r} contains values that are not finite. Train the model again.")
    import pandas as pd
    from anndata import AnnData

    batches = scored_batches(labels, batches)
    obs = pd.DataFrame({"label": pd.Categorical(labels.astype(str))}, index=[str(i) for i in range(len(labels))])
    obs["batch"] = pd.Categorical(np.zeros(len(labels), int).astype(str) if batches is None else batches.astype(str))
    obsm = {name: np.ascontiguousarray(values[kept], dtype=np.float32) for name, values in embeddings.items()}
    cells = AnnData(obs=obs, obsm={**obsm, " unintegrated": np.asarray(unintegrated[kept], dtype=np.float32)})
    with _results_only():
        from scib_metrics.benchmark import BatchCorrection, Benchmarker, BioConservation

        benchmark = Benchmarker(
            cells, "batch", "label", list(embeddings),
            bio_conservation_metrics=BioConservation(isolated_labels=batches is not None),
            batch_correction_metrics=None if batches is None else BatchCorrection(),
            pre_integrated_embedding_obsm_key=" unintegrated",
            progress_bar=progress,
        )  # fmt: skip
        benchmark.benchmark()
        table = benchmark.get_results(min_max_scale=False)
    aggregates = [name for name in (BIO, CORRECTION, TOTAL) if name in table]
    metrics = [name for name in table if name not in aggregates]
    return table.loc[list(embeddings), metrics + aggregates].astype(float).rename_axis(columns=None)


@contextmanager
def _results_only() -> Iterator[None]:
    """Silence scib-metrics' notes on skipped labels: its handler prints them to stdout, next to our JSON."""
    import scib_metrics

    level = scib_metrics.settings.verbosity
    scib_metrics.settings.verbosity = logging.WARNING
    try:
        yield
    finally:
        scib_metrics.settings.verbosity = level
