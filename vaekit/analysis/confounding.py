"""Warning about groups without a common batch, with the arguments that separate groups and batches."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING

import numpy as np

from vaekit.analysis.group_sums import PSEUDOCOUNT, GroupSums
from vaekit.analysis.groups import Comparison

if TYPE_CHECKING:
    import pandas as pd

    from vaekit.data.cells.count_source import CountSource

REPLICATE_NAMES = re.compile(  # of columns that may be replicates, best first
    "donor|patient|subject|individual|participant|animal|mouse|replicate|sample|library|channel|lane|batch|run", re.I
)


def warn_confounded(
    comparison: Comparison, source: CountSource, groupby: str | None, batch_key: str, sums: tuple[GroupSums, GroupSums]
) -> None:
    """Warn that no batch has cells of both groups, and name the arguments of a model without this problem."""
    group1, group2 = comparison.group1, comparison.group2
    percent = f"{100 * batch_fraction(*sums):.0f} % of the difference between {group1!r} and {group2!r}"
    nested = max(len(one.batches) for one in sums) > 1
    crossed = crossed_column(source.obs, comparison, {groupby, batch_key})
    covariate = "" if groupby in (None, batch_key) else f" and categorical_covariate_keys=[{groupby!r}]"
    problem = (
        f"each batch has cells of {group1!r} or of {group2!r} only (batch_key={batch_key!r})"
        if nested
        else f"{batch_key} is the same as {'group1 and group2' if groupby in (None, batch_key) else groupby}"
    )
    remedy = f"pass batch_key={crossed!r}{covariate} to the training data"
    if nested and crossed is None:
        remedy += f", and replicate_key={batch_key!r} to differential_expression"
    warnings.warn(
        f"{problem}: {percent} in {source.name} cannot be distinguished from effects of the batches. To train a model "
        f"that shows it, {remedy}.",
        UserWarning,
        stacklevel=3,
    )


def batch_fraction(first: GroupSums, second: GroupSums) -> float:
    """Return the fraction of the squared log ratios of counts that the model attributes to batches.

    The other part is the model's log ratio of compositions. Genes are weighted by their counts.
    """
    counts = [group.counts.sum(0) + PSEUDOCOUNT for group in (first, second)]
    observed = np.log(counts[0] / counts[0].sum()) - np.log(counts[1] / counts[1].sum())
    by_model = np.log(first.composition) - np.log(second.composition)
    weight = counts[0] * counts[1] / (counts[0] + counts[1])
    by_batch, by_group = (weight * (observed - by_model) ** 2).sum(), (weight * by_model**2).sum()
    return float(by_batch / max(by_batch + by_group, np.finfo(float).tiny))


def crossed_column(obs: pd.DataFrame, comparison: Comparison, known: set[str | None]) -> str | None:
    """Return a column that is named like replicates and has several values in both groups; None without one."""
    order = REPLICATE_NAMES.pattern.split("|")
    columns = [str(name) for name in obs.columns if name not in known]
    matches = [(order.index(match[0].lower()), name) for name in columns if (match := REPLICATE_NAMES.search(name))]
    for _, name in sorted(matches, key=lambda match: match[0]):
        values = obs[name]
        first, second = ({*values[mask].dropna()} for mask in (comparison.first, comparison.second))
        if len(first & second) > 1 and len(first | second) <= len(obs) // 2:
            return name
    return None
