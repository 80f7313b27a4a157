"""Figure of a gradient report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit.plotting.names import as_text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

UNBIASED_COLOR, BIASED_COLOR = "tab:blue", "tab:orange"
FEW_DECADES = 2  # an axis with fewer decades also has ticks at 2 and 5
MAX_DECADES = 4  # smaller values, such as the rounding error of an exact estimator, are written as text
NOISE_MARKER = {"marker": "|", "linestyle": "none", "color": "grey", "markersize": 11, "markeredgewidth": 2}


def plot_gradient_report(report: pd.DataFrame, title: str = "") -> Figure:
    """Plot standard deviation, bias, time, and error x time of each estimator of a report.

    Unbiased estimators are blue, biased ones orange. A gray mark at a bias is its expectation by chance alone. The rows
    are sorted by mean squared error x time, or by variance x time without a reference. Failed estimators are omitted.

    Parameters
    ----------
    report : DataFrame
        Table of :func:`vaekit.gradient_report`.
    title : str
        Title of the figure.

    Examples
    --------
    >>> import torch, vaekit
    >>> from torch.distributions import Bernoulli
    >>> logit = torch.zeros((), requires_grad=True)
    >>> estimators = [vaekit.estimators.ARM(), vaekit.estimators.StraightThrough()]
    >>> cost, q = lambda b: (b - 0.3) ** 2, lambda: Bernoulli(logits=logit)
    >>> report = vaekit.gradient_report(cost, q, estimators, logit, num_estimates=50, timings=1, progress=False)
    >>> vaekit.plotting.plot_gradient_report(report, "a coin").savefig("gradients.png")
    """
    from matplotlib.figure import Figure

    rows = report[report.error == ""]
    product = "mse_x_time" if rows.mse_x_time.notna().any() else "variance_x_time"
    rows = rows.sort_values([product, "milliseconds"], ascending=False)
    figure = Figure(figsize=(13, 1.8 + 0.3 * len(rows)), layout="constrained")
    axes = figure.subplots(1, 4, sharey=True)
    colors = [UNBIASED_COLOR if unbiased else BIASED_COLOR for unbiased in rows.unbiased]
    panels = {
        "relative_std": "standard deviation / norm",
        "relative_bias": "bias / norm",
        "milliseconds": "milliseconds per gradient",
        product: "squared error x time" if product == "mse_x_time" else "variance x time",
    }
    for axis, (column, heading) in zip(axes, panels.items(), strict=True):
        _plot_dots(axis, rows[column].to_numpy(float), colors)
        axis.set_title(heading, fontsize=9)
    noise = rows.bias_noise.to_numpy(float)
    visible = noise > axes[1].get_xlim()[0]
    axes[1].plot(noise[visible], np.flatnonzero(visible), **NOISE_MARKER, zorder=1)
    axes[0].set_yticks(range(len(rows)), list(map(as_text, rows.estimator)), fontsize=8)
    best = [report.attrs.get("best"), report.attrs.get("best_unbiased")]
    for tick, name in zip(axes[0].get_yticklabels(), rows.estimator, strict=True):
        tick.set_fontweight("bold" if name in best else "normal")
    for color, text in ((UNBIASED_COLOR, "unbiased"), (BIASED_COLOR, "biased")):
        axes[3].plot([], [], "o", color=color, label=text)
    axes[1].plot([], [], **NOISE_MARKER, label="bias by chance alone")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    reference = f"reference: {report.attrs.get('reference', 'none')}"
    figure.suptitle(as_text(f"{title}\n{reference}" if title else reference), fontsize=10)
    return figure


def _plot_dots(axis: Any, values: np.ndarray, colors: list[str]) -> None:
    """Plot dots on a logarithmic axis of at least one decade; values that are 0 or far below the rest are text."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    positive = values[np.isfinite(values) & (values > 0)]
    top = positive.max() if len(positive) else 1.0
    visible = positive[positive > top / 10**MAX_DECADES]
    floor = min(visible.min() / 2 if len(visible) else top / 2, top / 6)
    for y, (value, color) in enumerate(zip(values, colors, strict=True)):
        if np.isfinite(value) and value > floor:
            axis.plot([value], [y], "o", color=color, markersize=6)
        else:
            text = "-" if not np.isfinite(value) else "0" if value == 0 else f"{value:.0e}"
            axis.text(floor, y, f" {text}", va="center", fontsize=7, color=color)
    axis.set_xscale("log")
    axis.set_xlim(floor, top * 1.7)
    axis.xaxis.set_minor_formatter(NullFormatter())
    if top * 1.7 < floor * 10**FEW_DECADES:
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.tick_params(axis="x", labelsize=7)
    axis.grid(axis="x", alpha=0.3, which="both")
    axis.grid(axis="y", alpha=0.3)
