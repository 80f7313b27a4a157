"""Genes that differ between groups of cells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from vaekit.analysis.comparison_table import call_at_fdr, comparison_table
from vaekit.analysis.confounding import warn_confounded
from vaekit.analysis.decoding import PosteriorSampler, evaluating
from vaekit.analysis.fields import check_free
from vaekit.analysis.group_sums import GroupSums, have_common_batch, log_ratio, merge, sum_groups
from vaekit.analysis.groups import Comparison, select_comparisons
from vaekit.analysis.model_source import check_in_memory, get_count_registry, open_cells, provenance, resolve_model
from vaekit.analysis.partition import Partition, check_replicates, match_replicates, partition_cells
from vaekit.analysis.replicates import ReplicatedLogRatio, replicated_log_ratio
from vaekit.analysis.shrinkage import shrink
from vaekit.data.cells.columns import Column, read_column
from vaekit.data.cells.query import prepare_query
from vaekit.exceptions import DataError
from vaekit.models import VAE

TOTAL_SAMPLES, MAX_SAMPLES = 50_000, 10  # of all cells, and per cell; by default, at least 2 per cell

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    Mask: TypeAlias = np.ndarray | pd.Series | Sequence[bool]


def differential_expression(
    adata: AnnData | str | Path | Sequence[str | Path],
    model: VAE | str | Path,
    groupby: str | None = None,
    group1: str | Mask | Sequence[str] | None = None,
    group2: str | Mask | None = None,
    *,
    replicate_key: str | None = None,
    delta: float = 0.25,
    fdr: float = 0.05,
    layer: str | None = None,
    batch_key: str | None = None,
    key_added: str = "vaekit_de",
    num_samples: int | None = None,
    batch_size: int = 1024,
    progress: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    r"""Find the genes whose fraction of the counts differs between groups of cells.

    A gene is differentially expressed if its absolute log2 fold change exceeds ``delta``. The fold change compares the
    group means of the model's composition, corrected by the observed counts within each batch
    (:func:`vaekit.analysis.group_sums.log_ratio`). The distribution of the fold changes of all genes is the prior of
    each (:func:`vaekit.analysis.shrinkage.shrink`).

    Genes are called in the order of their probability while the expected fraction of false discoveries, the mean of
    ``proba_not_de`` over the called genes of a comparison, is at most ``fdr``. If most genes are sure to differ, a high
    ``fdr`` also calls genes that probably do not. A gene without counts in either group is never called; its row is the
    prior.

    Without ``replicate_key``, the errors hold for these cells, and say nothing on other donors. With it, they include
    the variance between replicates (:func:`vaekit.analysis.replicates.replicated_log_ratio`), so that the calls hold
    for the population of the replicates. Replicates with cells of both groups are compared in pairs.

    Parameters
    ----------
    adata : AnnData, path or sequence of paths
        Cells with counts. An AnnData changes in ``.uns`` only; files do not change. Counts of a single .h5ad file or
        zarr store in CSR format are read in chunks of cells.
    model : VAE or path
        Trained model, or its checkpoint.
    groupby : str or None
        Column of ``.obs`` with the groups. None means that ``group1`` and ``group2`` are masks or conditions.
    group1 : str, sequence of str, or mask
        Groups of the column, each of which is compared with ``group2``; None means every other group, sorted. Without
        ``groupby``, a mask: an array of booleans, a Series of booleans with the names of the cells, or conditions on
        the columns of ``.obs`` such as ``"cell_type == 'B' and dose > 1"``.
    group2 : str or mask
        Group of the column, or mask; None means all other cells ("Rest").
    replicate_key : str or None
        Column of ``.obs`` with replicates, such as donors or batches, at least two per group.
    delta : float
        Largest absolute log2 fold change that is not of interest.
    fdr : float
        Expected fraction of false discoveries, between 0 and 1.
    layer, batch_key, batch_size, progress
        As in :func:`vaekit.analysis.embed`.
    key_added : str
        Key in ``.uns``.
    num_samples : int or None
        Samples of the latents per cell; None means 2 for many cells and up to 10 for few. An even number has the
        smallest Monte Carlo error: half of the samples mirror the others.
    seed : int
        Seed of the samples.

    Returns
    -------
    pandas.DataFrame
        For each comparison, one row for each gene of the model that ``adata`` has, sorted by ``proba_de``, then by
        absolute ``lfc_mean`` and by mean count. All columns refer to these genes:

        ``proba_de``, ``proba_not_de``, ``bayes_factor``
            Probability that the absolute fold change exceeds ``delta``, its complement, and the log of their ratio.
        ``proba_up``, ``proba_down``
            Probabilities of a fold change above ``delta`` and below ``-delta``, which sum to ``proba_de``.
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
        If the cells do not fit the model, the groups, replicates or numbers are invalid, or ``key_added`` is taken.

    Notes
    -----
    Probabilities from posterior samples of single cells, or from group means of the decoder, are not calibrated: the
    former measure the variation within a group, the latter ignore errors of the decoder.
    ``tests/benchmarks/scrna_de.py`` compares all three with the truth of simulated cells.

    The model runs once per cell, regardless of the number of comparisons.

    Column names as in scvi-tools. Boyeau et al. (2023), An empirical Bayes method for differential expression
    analysis of single cells with deep generative models; Stephens (2017), False discovery rates: a new deal; Squair et
    al. (2021), Confronting false discoveries in single-cell differential expression.

    Examples
    --------
    >>> import vaekit
    >>> table = vaekit.analysis.differential_expression(adata, model, "cluster", "cluster0", "cluster1")
    >>> table.index[0], bool(table["is_de_fdr_0.05"].iloc[0])
    ('gene4', True)
    >>> every = vaekit.analysis.differential_expression(adata, model, "cluster")  # each cluster with the others
    >>> every["comparison"].unique().tolist()
    ['cluster0 vs Rest', 'cluster1 vs Rest', 'cluster2 vs Rest']
    """
    import pandas as pd

    if not delta >= 0:
        raise DataError(f"differential_expression: delta={delta} must be at least 0.")
    if not 0 < fdr < 1:
        raise DataError(f"differential_expression: fdr={fdr} must be between 0 and 1.")
    model, checkpoint = resolve_model(model)
    source = open_cells(model, adata, layer)
    num_samples = default_num_samples(len(source.obs)) if num_samples is None else num_samples
    sampler = PosteriorSampler(model, num_samples, batch_size, seed, antithetic=True)
    writable = None if isinstance(adata, str | Path | Sequence) else adata
    if writable is not None:
        check_in_memory(writable)
        check_free(writable, key_added, {}, key_added)
    comparisons = select_comparisons(source.obs, groupby, group1, group2, source.name)
    replicates = None
    if replicate_key is not None:
        replicates = read_column(source.obs, replicate_key, "replicate_key", source.name)
        check_replicates(comparisons, replicates, replicate_key, source.name)
    registry = get_count_registry(model)
    query = prepare_query(source, registry, batch_key)
    partition = partition_cells(comparisons, replicates)
    with evaluating(model, seed):
        parts = sum_groups(sampler, query.dataset, partition.cells, progress)
    genes = np.array(registry["feature_names"])
    observed = ~np.isin(genes, query.missing_genes)
    batch_key = batch_key or registry["config"]["init_args"]["batch_key"]
    tables = []
    for number, comparison in enumerate(comparisons):
        first, second = (merge([parts[part] for part in partition.parts(group, number)]) for group in (0, 1))
        if not have_common_batch(first, second):
            warn_confounded(comparison, source, groupby, batch_key, (first, second))
        if replicates is None:
            ratio, degrees = log_ratio(first, second), np.inf
        else:
            ratio, degrees = _replicated(partition, parts, number, comparison, replicates)
        posterior = shrink(ratio.estimate[observed], ratio.error[observed], ratio.shapes[:, observed], degrees)
        table = comparison_table(posterior, first, second, genes, observed, delta)
        tables.append(_add_calls_and_names(table, comparison, fdr))
    table = tables[0] if len(tables) == 1 else pd.concat(tables)
    if writable is not None:
        writable.uns[key_added] = {"table": table.copy(), **provenance(model, query.missing_genes, checkpoint)}
    return table


def default_num_samples(num_cells: int) -> int:
    """Return an even number of samples per cell at which another seed calls nearly the same genes, in bounded time.

    Examples
    --------
    >>> [default_num_samples(num_cells) for num_cells in (500, 10_000, 1_000_000)]
    [10, 6, 2]
    """
    return 2 * min(max(-(-TOTAL_SAMPLES // (2 * num_cells)), 1), MAX_SAMPLES // 2)


def _replicated(
    partition: Partition, parts: list[GroupSums], number: int, comparison: Comparison, replicates: Column
) -> ReplicatedLogRatio:
    """Return the log ratio of a comparison with errors from its replicates."""
    *codes, is_paired = match_replicates(comparison, replicates)
    first, second = (
        [merge([parts[part] for part in partition.parts(group, number, code)]) for code in codes[group]]
        for group in (0, 1)
    )
    return replicated_log_ratio(first, second, is_paired)


def _add_calls_and_names(table: pd.DataFrame, comparison: Comparison, fdr: float) -> pd.DataFrame:
    has_counts = (table["raw_mean1"] + table["raw_mean2"] > 0).to_numpy()
    table[f"is_de_fdr_{fdr}"] = False
    table.loc[has_counts, f"is_de_fdr_{fdr}"] = call_at_fdr(table["proba_de"].to_numpy()[has_counts], fdr)
    table["comparison"], table["group1"], table["group2"] = comparison.name, comparison.group1, comparison.group2
    return table
