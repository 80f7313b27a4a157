"""Table of the genes of one comparison: probabilities, fold changes, means and calls."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from vaekit.analysis.effects import Posterior
from vaekit.analysis.group_sums import PSEUDOCOUNT, GroupSums

if TYPE_CHECKING:
    import pandas as pd

MIN_PROBABILITY = 1e-8  # in the Bayes factor
PROBABILITY_DIGITS = 12  # rounding errors must not order genes
EFFECT_DIGITS = 9  # groups of the same cells have the fold change 0


def comparison_table(
    posterior: Posterior, first: GroupSums, second: GroupSums, genes: np.ndarray, observed: np.ndarray, delta: float
) -> pd.DataFrame:
    """Return the sorted table of the observed genes, without calls and names.

    ``posterior`` describes the fold changes of the observed genes, natural logarithm.
    """
    import pandas as pd

    log2 = math.log(2)
    proba = posterior.prob_exceeds(delta * log2).round(PROBABILITY_DIGITS)
    columns: dict[str, np.ndarray | float] = {
        "proba_de": proba,
        "proba_not_de": 1 - proba,
        "proba_up": posterior.prob_above(delta * log2).round(PROBABILITY_DIGITS),
        "proba_down": posterior.prob_below(delta * log2).round(PROBABILITY_DIGITS),
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
