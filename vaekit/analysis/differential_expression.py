"""Genes that differ between two groups of cells."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vaekit.analysis.decoding import batch_indices, check_sizes, evaluating
from vaekit.analysis.fields import check_free
from vaekit.analysis.group_sums import PSEUDOCOUNT, GroupSums, log_ratio, sum_group
from vaekit.analysis.groups import two_groups
from vaekit.analysis.model_source import check_in_memory, get_data_registry, provenance, resolve_model
from vaekit.analysis.query import obs_of, prepare_query
from vaekit.analysis.shrinkage import shrink
from vaekit.exceptions import DataError
from vaekit.models import VAE

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

FLOOR = 1e-8  # of probabilities in the Bayes factor
DIGITS = 12  # of a probability: those beyond are rounding errors, which must not order genes
EFFECT_DIGITS = 9  # of a fold change: that of groups of the same cells is 0


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
    r"""Find the genes whose share of the counts differs between two groups of cells.

    A gene is differentially expressed if its log2 fold change exceeds ``delta`` in size. Its fold change is that of
    the group means of the model's composition, corrected by what the model misses of the counts within each batch
    (:func:`vaekit.analysis.group_sums.log_ratio`); the distribution of all genes' fold changes, estimated from them,
    is the prior of each (:func:`vaekit.analysis.shrinkage.shrink`). Genes are called in the order of
    their probability for as long as the expected share of false ones, the mean of ``proba_not_de`` over those called,
    is at most ``fdr``: where most genes are sure to differ, a lenient ``fdr`` takes in some that probably do not. A
    gene without a count in either group is not called: its row tells what is known of the other genes.

    Parameters
    ----------
    adata
        Cells with counts; changed in ``.uns`` alone. Or their .h5ad file or zarr store, or several: counts of
        one file that are stored as CSR are read a chunk of cells at a time, and nothing is changed.
    model
        A trained model, or the path of its checkpoint.
    groupby
        Column of ``.obs`` with the groups.
    group1, group2
        Names of the groups; ``group2`` of None: all other cells.
    delta
        Log2 fold change that is of no interest.
    fdr
        Expected share of false discoveries.
    layer, batch_key
        As in :func:`vaekit.analysis.embed`.
    key_added
        Key in ``.uns``.
    num_samples
        Draws of the latents a cell; the mean over a group averages over all its cells' draws.
    batch_size
        Cells at a time; fewer where the draws of all genes would take too much memory.
    progress
        Whether to show a progress bar.
    seed
        Of the draws.

    Returns
    -------
    pandas.DataFrame
        A row for each gene of the model that ``adata`` has, sorted by ``proba_de``; of equal ones, the larger
        ``lfc_mean`` in size first, then the larger mean count. All columns refer to these genes:

        ``proba_de``, ``proba_not_de``, ``bayes_factor``
            Probability that the fold change exceeds ``delta``, its complement, and the log of their ratio.
        ``scale1``, ``scale2``
            Mean composition of the group over these genes by the model, averaged over the batches that it knows.
        ``pseudocounts``, ``delta``
            Counts of the model's prediction that are added to a group's (0.5), and ``delta``.
        ``lfc_mean``, ``lfc_median``, ``lfc_std``, ``lfc_min``, ``lfc_max``
            Of the posterior of the log2 fold change of group 1 over group 2; the last two are its quantiles at 0.001
            and 0.999.
        ``raw_mean1``, ``raw_mean2``, ``non_zeros_proportion1``, ``non_zeros_proportion2``
            Mean count, and share of cells with a count.
        ``raw_normalized_mean1``, ``raw_normalized_mean2``
            Mean of the counts scaled to 10,000 a cell.
        ``is_de_fdr_<fdr>``
            Whether the gene is called.
        ``comparison``, ``group1``, ``group2``
            Names.

    Sets the following field:

    ``adata.uns[key_added]``
        The table as ``"table"``, and where it comes from; not for a file.

    Warns
    -----
    UserWarning
        If a group is a single cell, or no batch has cells of both groups: then their difference rests on the
        model's effect of the batches.

    Raises
    ------
    CheckpointError
        If the model was not trained on gene expression, or its likelihood has no composition.
    DataError
        If the cells do not fit the model, the groups are impossible, or ``key_added`` is taken.

    Notes
    -----
    Probabilities from posterior draws of single cells, or of the group means of the decoder, are not calibrated: the
    former measure how much cells differ within a group, the latter know of no error of the decoder.
    ``tests/benchmarks/scrna_de.py`` compares all three with the truth of simulated cells.

    Column names as in scvi-tools. Boyeau et al. (2023), An empirical Bayes method for differential expression
    analysis of single cells with deep generative models; Stephens (2017), False discovery rates: a new deal.
    """
    if not delta >= 0 or not 0 < fdr < 1:
        raise DataError(f"delta is {delta} (0 or more), fdr {fdr} (between 0 and 1)")
    import pandas as pd
    from tqdm.auto import tqdm

    model, checkpoint = resolve_model(model)
    check_sizes(num_samples, batch_size)
    obs, source = obs_of(adata)
    into = None if isinstance(adata, str | Path | Sequence) else adata
    if into is not None:
        check_in_memory(into)
        check_free(into, key_added, {}, key_added)
    rows = two_groups(obs, groupby, group1, group2, source)
    query = prepare_query(model, adata, layer, batch_key)
    batches = len(batch_indices(model, None))
    with (
        evaluating(model, seed),
        tqdm(total=sum(map(len, rows)), desc="comparing", unit="cell", disable=not progress) as bar,
    ):
        first, second = (
            sum_group(model, query.dataset, group, batches, num_samples, batch_size, bar, seed) for group in rows
        )
    if not ((first.cells > 0) & (second.cells > 0)).any():
        warnings.warn(
            f"no batch of {source} has cells of both groups: the difference between the groups rests on the model's "
            "effect of the batches, which nothing in these cells can confirm",
            UserWarning,
            stacklevel=2,
        )
    genes = np.array(get_data_registry(model)["feature_names"])
    measured = ~np.isin(genes, query.missing_genes)
    table = pd.DataFrame(_columns(first, second, measured, delta), index=pd.Index(genes[measured], name="gene"))
    table = table.iloc[_order(table)]
    seen = (table["raw_mean1"] + table["raw_mean2"] > 0).to_numpy()
    table[f"is_de_fdr_{fdr}"] = False
    table.loc[seen, f"is_de_fdr_{fdr}"] = call_at_fdr(table["proba_de"].to_numpy()[seen], fdr)
    other = "Rest" if group2 is None else str(group2)
    table["comparison"], table["group1"], table["group2"] = f"{group1} vs {other}", str(group1), other
    if into is not None:
        into.uns[key_added] = {"table": table.copy(), **provenance(model, query.missing_genes, checkpoint)}
    return table


def call_at_fdr(proba_de: np.ndarray, fdr: float) -> np.ndarray:
    """Return which genes are called: the most probable ones, while the mean of 1 - proba_de is at most ``fdr``.

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
    result = np.zeros(len(order), dtype=bool)
    result[order[: int((expected <= fdr).sum())]] = True
    return result


def _order(table: pd.DataFrame) -> np.ndarray:
    """Return the order of the rows by probability, effect, and mean count; at last that of the model's genes.

    Effects are compared at six digits: genes of the same counts differ by rounding.
    """
    mean = table["raw_mean1"] + table["raw_mean2"]
    return np.lexsort((-mean, -table["lfc_mean"].abs().round(6), -table["proba_de"]))


def _columns(first: GroupSums, second: GroupSums, measured: np.ndarray, delta: float) -> dict[str, np.ndarray | float]:
    """Return the table's columns, for the genes ``measured``."""
    ratio, log2 = log_ratio(first, second), math.log(2)
    posterior = shrink(ratio.estimate[measured], ratio.error[measured], ratio.shapes[:, measured])
    proba = posterior.prob_exceeds(delta * log2).round(DIGITS)
    columns: dict[str, np.ndarray | float] = {
        "proba_de": proba,
        "proba_not_de": 1 - proba,
        "bayes_factor": np.log(np.maximum(proba, FLOOR)) - np.log(np.maximum(1 - proba, FLOOR)),
        "scale1": first.composition[measured],
        "scale2": second.composition[measured],
        "pseudocounts": PSEUDOCOUNT,
        "delta": delta,
        "lfc_mean": (posterior.mean / log2).round(EFFECT_DIGITS) + 0.0,  # not -0
        "lfc_median": (posterior.quantile(0.5) / log2).round(EFFECT_DIGITS) + 0.0,
        "lfc_std": posterior.std / log2,
        "lfc_min": posterior.quantile(0.001) / log2,
        "lfc_max": posterior.quantile(0.999) / log2,
    }
    for name, of in (
        ("raw_mean", lambda group: group.counts.sum(0)),
        ("non_zeros_proportion", lambda group: group.nonzero),
        ("raw_normalized_mean", lambda group: group.normalized),
    ):
        for number, group in ((1, first), (2, second)):
            columns[f"{name}{number}"] = (of(group) / group.cells.sum())[measured]
    return columns
