"""Simulated UMI counts with known clusters, batches, programs and effects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit._core import memory_budget
from vaekit.exceptions import DataError

if TYPE_CHECKING:
    from anndata import AnnData
    from scipy import sparse

BASELINE_SPREAD = 1.5  # standard deviation of genes' log means, about that of 10x data
PROGRAM_FRACTION = 0.1  # of the genes that a program changes


def simulate_counts(
    cells: int = 2000,
    genes: int = 1000,
    clusters: int = 5,
    batches: int = 1,
    programs: int = 5,
    *,
    cluster_sizes: Sequence[float] | None = None,
    de_fraction: float = 0.1,
    lfc_scale: float = 1.0,
    program_scale: float = 0.3,
    batch_scale: float = 0.3,
    confounding: float = 0.0,
    library_size: float = 1000.0,
    library_spread: float = 0.4,
    inverse_dispersion: float = 2.0,
    seed: int = 0,
    progress: bool = False,
) -> AnnData:
    r"""Simulate negative binomial counts of cells in clusters and batches, and return them with the true parameters.

    .. math::
        x_{ig} \sim \mathrm{NB}(\ell_i\, \rho_{ig}, \theta_g), \qquad
        \rho_i = \mathrm{softmax}(b + c_{k(i)} + W a_i + d_{s(i)})

    with the baseline b, the effects c of the cell's cluster (normal, and 0 for most genes), the loadings W of the
    programs (0 for most genes) with standard normal activities a in every cell, the effects d of its batch on every
    gene, and a log-normal library size.

    Parameters
    ----------
    cells, genes, clusters, batches, programs : int
        Numbers of each; programs may be 0.
    cluster_sizes : sequence of float or None
        Relative sizes of the clusters; None means equal sizes.
    de_fraction : float
        Fraction of the genes that differ between a cluster and the baseline.
    lfc_scale : float
        Standard deviation of the effects of clusters, log2.
    program_scale, batch_scale : float
        Standard deviations of loadings and of batch effects, natural logarithm.
    confounding : float
        Fraction of the cells of a cluster that come from one batch; clusters are assigned to batches round-robin. The
        other cells are distributed evenly. 0 makes batches and clusters independent.
    library_size, library_spread : float
        Median of the library sizes, and standard deviation of their logarithm.
    inverse_dispersion : float
        Median of the genes' theta; its logarithm has a standard deviation of 0.5.
    seed : int
        Seed; equal arguments give equal counts.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    AnnData
        Counts in ``.X``, CSR float32, and the true parameters:

        ``obs["cluster"]``, ``obs["batch"]``, ``obs["library_size"]``
            Cluster, batch and expected total count of each cell.
        ``obsm["programs"]``
            Activities ``[cells, programs]``.
        ``var["inverse_dispersion"]``, ``var["baseline"]``
            theta and b.
        ``varm["composition"]``
            Mean of rho over the cells of each cluster, *without* the effects of batches: a table of genes and clusters,
            whose log ratios are the true log fold changes.
        ``varm["cluster_effects"]``, ``varm["programs"]``, ``varm["batch_effects"]``
            c, W and d, natural logarithm.
        ``uns["simulation"]``
            The arguments.

    Raises
    ------
    DataError
        If a number or scale is out of range.

    Examples
    --------
    >>> cells = simulate_counts(cells=60, genes=40, clusters=3, batches=2, seed=1)
    >>> cells.shape, cells.obs["cluster"].nunique(), cells.varm["composition"].shape
    ((60, 40), 3, (40, 3))
    """
    arguments = {key: value for key, value in locals().items() if key not in ("cluster_sizes", "progress")}
    sizes = _sizes(cluster_sizes, clusters)
    _check(arguments)
    import pandas as pd
    from anndata import AnnData
    from scipy import sparse
    from tqdm.auto import tqdm

    rng = np.random.default_rng(seed)
    baseline = rng.normal(0, BASELINE_SPREAD, genes)
    is_de = rng.random((genes, clusters)) < de_fraction
    cluster_effects = rng.normal(0, lfc_scale * np.log(2), (genes, clusters)) * is_de
    loadings = rng.normal(0, program_scale, (genes, programs)) * (rng.random((genes, programs)) < PROGRAM_FRACTION)
    batch_effects = rng.normal(0, batch_scale, (genes, batches)) * (batches > 1)
    theta = inverse_dispersion * np.exp(rng.normal(0, 0.5, genes))
    cluster = rng.choice(clusters, cells, p=sizes)
    batch = np.where(rng.random(cells) < confounding, cluster % batches, rng.integers(batches, size=cells))
    library = library_size * np.exp(rng.normal(0, library_spread, cells))
    activity = rng.normal(size=(cells, programs))

    parts: list[sparse.csr_matrix] = []
    truth = np.zeros((clusters, genes))
    step = max(1, memory_budget.SIMULATED_VALUES // genes)
    starts = range(0, cells, step)
    for start in tqdm(starts, desc="simulating", unit="chunk", disable=not progress):
        rows = slice(start, start + step)
        logits = baseline + cluster_effects.T[cluster[rows]] + activity[rows] @ loadings.T
        rho = _softmax(logits)
        for k in range(clusters):
            truth[k] += rho[cluster[rows] == k].sum(0)
        if batches > 1:
            rho = _softmax(logits + batch_effects.T[batch[rows]])
        rate = rng.standard_gamma(np.broadcast_to(theta, rho.shape)) * (library[rows, None] * rho / theta)
        parts.append(sparse.csr_matrix(rng.poisson(rate).astype(np.float32)))

    num_cells = np.bincount(cluster, minlength=clusters)
    truth /= np.maximum(num_cells, 1)[:, None]
    truth[num_cells == 0] = np.nan
    names = {"cluster": [f"cluster{k}" for k in range(clusters)], "batch": [f"batch{k}" for k in range(batches)]}
    obs = pd.DataFrame(
        {
            "cluster": pd.Categorical.from_codes(cluster, names["cluster"]),
            "batch": pd.Categorical.from_codes(batch, names["batch"]),
            "library_size": library,
        },
        index=[f"cell{i}" for i in range(cells)],
    )
    var = pd.DataFrame({"inverse_dispersion": theta, "baseline": baseline}, index=[f"gene{g}" for g in range(genes)])
    adata = AnnData(sparse.vstack(parts, format="csr"), obs=obs, var=var)
    adata.obsm["programs"] = activity
    for key, values, columns in (
        ("composition", truth.T, names["cluster"]),
        ("cluster_effects", cluster_effects, names["cluster"]),
        ("batch_effects", batch_effects, names["batch"]),
    ):
        adata.varm[key] = pd.DataFrame(values, index=var.index, columns=columns)
    adata.varm["programs"] = loadings
    adata.uns["simulation"] = {**arguments, "cluster_sizes": sizes}
    return adata


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponential = np.exp(logits - logits.max(1, keepdims=True))
    return exponential / exponential.sum(1, keepdims=True)


def _sizes(cluster_sizes: Sequence[float] | None, clusters: int) -> np.ndarray:
    """Return the probability of each cluster."""
    if clusters < 1:
        raise DataError(f"simulate_counts: clusters={clusters} must be at least 1.")
    sizes = np.ones(clusters) if cluster_sizes is None else np.asarray(cluster_sizes, dtype=float)
    if sizes.shape != (clusters,) or not np.isfinite(sizes).all() or (sizes <= 0).any():
        raise DataError(
            f"simulate_counts: cluster_sizes={cluster_sizes} must have one positive number for each of the {clusters} "
            "clusters."
        )
    return sizes / sizes.sum()


def _check(arguments: dict[str, Any]) -> None:
    """Raise a DataError that names the argument out of range."""
    lowest = {"cells": 1, "genes": 2, "clusters": 1, "batches": 1, "programs": 0}
    scales = ("lfc_scale", "program_scale", "batch_scale", "library_spread", "de_fraction", "confounding")
    for name, value in arguments.items():
        limit = lowest.get(name, 0 if name in scales else None)
        if limit is not None and not value >= limit:
            raise DataError(f"simulate_counts: {name}={value} must be at least {limit}.")
        if name in ("de_fraction", "confounding") and value > 1:
            raise DataError(f"simulate_counts: {name}={value} must lie in 0..1.")
        if name in ("library_size", "inverse_dispersion") and not value > 0:
            raise DataError(f"simulate_counts: {name}={value} must be positive.")
