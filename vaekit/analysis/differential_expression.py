"""Genes that differ between two groups of cells."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vaekit.analysis.decoding import PosteriorSampler, evaluating
from vaekit.analysis.fields import check_free
from vaekit.analysis.group_sums import PSEUDOCOUNT, GroupSums, log_ratio, sum_group
from vaekit.analysis.groups import two_groups
from vaekit.analysis.model_source import check_in_memory, get_count_registry, open_cells, provenance, resolve_model
from vaekit.analysis.shrinkage import shrink
from vaekit.data.cells.query import prepare_query
from vaekit.exceptions import DataError
from vaekit.models import VAE

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

MIN_PROBABILITY = 1e-8  # in the Bayes factor
PROBABILITY_DIGITS = 12  # rounding errors must not order genes
EFFECT_DIGITS = 9  # groups of the same cells have the fold change 0


def differential_expression(
    adata: AnnData | str | Path | Sequence[str | Path],
    model: VAE | str | Path,
    groupby: str,
    group1: str,
    group2: str | None = None,
    *,
    delta: float = 0.25,
    fdr: float = 0.05,
    layer: str | None = None,
    batch_key: str | None = None,
    key_added: str = "vaekit_de",
    num_samples: int = 2,
    batch_size: int = 1024,
    progress: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    r"""Find the genes whose fraction of the counts differs between two groups of cells.

    A gene is differentially expressed if its absolute log2 fold change exceeds ``delta``. The fold change compares the
    group means of the model's composition, corrected by the observed counts within each batch
    (:func:`vaekit.analysis.group_sums.log_ratio`). The distribution of the fold changes of all genes is the prior of
    each (:func:`vaekit.analysis.shrinkage.shrink`).

    Genes are called in the order of their probability while the expected fraction of false discoveries, the mean of
    ``proba_not_de`` over the called genes, is at most ``fdr``. If most genes are sure to differ, a high ``fdr`` also
    calls genes that probably do not. A gene without counts in either group is never called; its row is the prior.

    Parameters
    ----------
    adata : AnnData, path or sequence of paths
        Cells with counts. An AnnData changes in ``.uns`` only; files do not change. Counts of a single .h5ad file or
        zarr store in CSR format are read in chunks of cells.
    model : VAE or path
        Trained model, or its checkpoint.
    groupby : str
        Column of ``.obs`` with the groups.
    group1, group2 : str
        Names of the groups. For ``group2``, None means all other cells.
    delta : float
        Largest absolute log2 fold change that is not of interest.
    fdr : float
        Expected fraction of false discoveries, between 0 and 1.
    layer, batch_key, batch_size, progress
        As in :func:`vaekit.analysis.embed`.
    key_added : str
        Key in ``.uns``.
    num_samples, seed : int
        Samples of the latents per cell, and their seed.

    Returns
    -------
    pandas.DataFrame
        One row for each gene of the model that ``adata`` has, sorted by ``proba_de``, then by absolute ``lfc_mean`` and
        by mean count. All columns refer to these genes:

        ``proba_de``, ``proba_not_de``, ``bayes_factor``
            Probability that the absolute fold change exceeds ``delta``, its complement, and the log of their ratio.
        ``scale1``, ``scale2``
            Mean composition of each group in the model, averaged over the model's batches.
        ``pseudocounts``, ``delta``
            Weight of the model's prediction in counts (0.5), and ``delta``.
        ``lfc_mean``, ``lfc_median``, ``lfc_std``, ``lfc_min``, ``lfc_max``
            Posterior of the log2 fold change of group 1 over group 2; minimum and maximum are the quantiles 0.001 and
            0.999.
        ``raw_mean1``, ``raw_mean2``, ``non_zeros_proportion1``, ``non_zeros_proportion2``
            Mean count, and fraction of cells with a count.
        ``raw_normalized_mean1``, ``raw_normalized_mean2``
            Mean of the counts scaled to 10,000 per cell.
        ``is_de_fdr_<fdr>``
            Whether the gene is called.
        ``comparison``, ``group1``, ``group2``
            Names.

    Sets the following field of an AnnData:

    ``adata.uns[key_added]``
        The table as ``"table"``, and its provenance.

    Warns
    -----
    UserWarning
        If a group is a single cell, or no batch has cells of both groups.

    Raises
    ------
    CheckpointError
        If the model was not trained on gene expression, or its likelihood does not have a composition.
    DataError
        If the cells do not fit the model, the groups or numbers are invalid, or ``key_added`` is taken.

    Notes
    -----
    Probabilities from posterior samples of single cells, or from group means of the decoder, are not calibrated: the
    former measure the variation within a group, the latter ignore errors of the decoder.
    ``tests/benchmarks/scrna_de.py`` compares all three with the truth of simulated cells.

    Column names as in scvi-tools. Boyeau et al. (2023), An empirical Bayes method for differential expression
    analysis of single cells with deep generative models; Stephens (2017), False discovery rates: a new deal.
    """
    if not delta >= 0:
        raise DataError(f"differential_expression: delta={delta} must be at least 0.")
    if not 0 < fdr < 1:
        raise DataError(f"differential_expression: fdr={fdr} must be between 0 and 1.")
    model, checkpoint = resolve_model(model)
    sampler = PosteriorSampler(model, num_samples, batch_size, seed)
    source = open_cells(model, adata, layer)
    writable = None if isinstance(adata, str | Path | Sequence) else adata
    if writable is not None:
        check_in_memory(writable)
        check_free(writable, key_added, {}, key_added)
    groups = two_groups(source.obs, groupby, group1, group2, source.name)
    registry = get_count_registry(model)
    query = prepare_query(source, registry, batch_key)
    with evaluating(model, seed):
        first, second = (sum_group(sampler, query.dataset, index, progress) for index in groups)
    if not ((first.cells > 0) & (second.cells > 0)).any():
        warnings.warn(
            f"No batch of {source.name} has cells of both groups. The comparison relies on the model's effect of the "
            "batches, which these cells cannot confirm.",
            UserWarning,
            stacklevel=2,
        )
    genes = np.array(registry["feature_names"])
    table = _table(first, second, genes, ~np.isin(genes, query.missing_genes), delta)
    has_counts = (table["raw_mean1"] + table["raw_mean2"] > 0).to_numpy()
    table[f"is_de_fdr_{fdr}"] = False
    table.loc[has_counts, f"is_de_fdr_{fdr}"] = call_at_fdr(table["proba_de"].to_numpy()[has_counts], fdr)
    other = "Rest" if group2 is None else str(group2)
    table["comparison"], table["group1"], table["group2"] = f"{group1} vs {other}", str(group1), other
    if writable is not None:
        writable.uns[key_added] = {"table": table.copy(), **provenance(model, query.missing_genes, checkpoint)}
    return table


def call_at_fdr(proba_de: np.ndarray, fdr: float) -> np.ndarray:
    """Return a mask of the most probable genes whose mean of ``1 - proba_de`` is at most ``fdr``.

    Notes
    -----
    Mueller, Parmigiani, Robert and Rousseau (2004), Optimal sample size for multiple testing.

    Examples
    --------
    >>> call_at_fdr(np.array([0.5, 0.99, 0.95]), fdr=0.05)
    array([False,  True,  True])
    """
    order = np.argsort(-proba_de, kind="stable")
    expected = (1 - proba_de[order]).cumsum() / np.arange(1, len(order) + 1)
    is_called = np.zeros(len(order), dtype=bool)
    is_called[order[: int((expected <= fdr).sum())]] = True
    return is_called


def _table(first: GroupSums, second: GroupSums, genes: np.ndarray, observed: np.ndarray, delta: float) -> pd.DataFrame:
    """Return the sorted table of the observed genes, without calls and names."""
    import pandas as pd

    ratio, log2 = log_ratio(first, second), math.log(2)
    posterior = shrink(ratio.estimate[observed], ratio.error[observed], ratio.shapes[:, observed])
    proba = posterior.prob_exceeds(delta * log2).round(PROBABILITY_DIGITS)
    columns: dict[str, np.ndarray | float] = {
        "proba_de": proba,
        "proba_not_de": 1 - proba,
        "bayes_factor": np.log(np.maximum(proba, MIN_PROBABILITY)) - np.log(np.maximum(1 - proba, MIN_PROBABILITY)),
        "scale1": first.composition[observed],
        "scale2": second.composition[observed],
        "pseudocounts": PSEUDOCOUNT,
        "delta": delta,
        "lfc_mean": (posterior.mean / log2).round(EFFECT_DIGITS) + 0.0,  # not -0
        "lfc_median": (posterior.quantile(0.5) / log2).round(EFFECT_DIGITS) + 0.0,
        "lfc_std": posterior.std / log2,
        "lfc_min": posterior.quantile(0.001) / log2,
        "lfc_max": posterior.quantile(0.999) / log2,
    }
    for name, totals in (
        ("raw_mean", (first.counts.sum(0), second.counts.sum(0))),
        ("non_zeros_proportion", (first.nonzero, second.nonzero)),
        ("raw_normalized_mean", (first.normalized, second.normalized)),
    ):
        for number, total, group in zip("12", totals, (first, second), strict=True):
            columns[f"{name}{number}"] = (total / group.cells.sum())[observed]
    table = pd.DataFrame(columns, index=pd.Index(genes[observed], name="gene"))
    effect = table["lfc_mean"].abs().round(6)  # genes with equal counts differ by rounding
    return table.iloc[np.lexsort((-(table["raw_mean1"] + table["raw_mean2"]), -effect, -table["proba_de"]))]
