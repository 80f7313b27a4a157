"""Confidence intervals of means over seeds."""

from __future__ import annotations

import math
import statistics


def half_width(values: list[float]) -> float | None:
    """Return half of the 95 % confidence interval of a mean by Student's t; None for a single value.

    Examples
    --------
    >>> round(half_width([1.0, 2.0, 3.0]), 3)
    2.484
    """
    if len(values) < 2:
        return None
    from scipy.stats import t

    return float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
