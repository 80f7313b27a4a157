"""A picture of a gradient report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

UNBIASED, BIASED = "tab:blue", "tab:orange"
NARROW = 2  # decades of an axis below which 2 and 5 are written too
DECADES = 4  # an exact estimator's error is rounding: it would flatten all others


def plot_gradient_report(report: pd.DataFrame, title: str = "") -> Figure:
    """Draw relative standard deviation, relative bias, time and the product of error and time, a row an estimator.

    Blue estimators are unbiased, orange ones are not. The grey mark at a bias is what chance alone would show. Rows are
    sorted by the product of mean squared error and time (of variance and time, without a reference); those of refused
    estimators are left out.

    Parameters
    ----------
    report
        From :func:`vaekit.gradient_report`.
    title
        Of the figure.
    """
    from matplotlib.figure import Figure

    rows = report[report.error == ""]
    product = "mse_x_time" if rows.mse_x_time.notna().any() else "variance_x_time"
    rows = rows.sort_values([product, "milliseconds"], ascending=False)
    figure = Figure(figsize=(13, 1.8 + 0.3 * len(rows)), layout="constrained")
    axes = figure.subplots(1, 4, sharey=True)
    colours = [UNBIASED if unbiased else BIASED for unbiased in rows.unbiased]
    panels = (
        ("relative_std", "standard deviation / norm"),
        ("relative_bias", "bias / norm"),
        ("milliseconds", "milliseconds a gradient"),
        (product, "squared error x time" if product == "mse_x_time" else "variance x time"),
    )
    for axis, (column, words) in zip(axes, panels, strict=True):
        _dots(axis, rows[column].to_numpy(float), colours)
        axis.set_title(words, fontsize=9)
    noise = rows.bias_noise.to_numpy(float)
    shown = noise > axes[1].get_xlim()[0]
    axes[1].plot(noise[shown], np.flatnonzero(shown), "|", color="grey", markersize=11, markeredgewidth=2, zorder=1)
    axes[0].set_yticks(range(len(rows)), rows.estimator, fontsize=8)
    best = [report.attrs.get("best"), report.attrs.get("best_unbiased")]
    for tick, name in zip(axes[0].get_yticklabels(), rows.estimator, strict=True):
        tick.set_fontweight("bold" if name in best else "normal")
    for colour, words in ((UNBIASED, "unbiased"), (BIASED, "biased")):
        axes[3].plot([], [], "o", color=colour, label=words)
    axes[1].plot([], [], "|", color="grey", markersize=11, markeredgewidth=2, label="bias by chance alone")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    figure.suptitle(
        "\n".join(filter(None, (title, f"reference: {report.attrs.get('reference', 'none')}"))), fontsize=10
    )
    return figure


def _dots(axis: Any, values: np.ndarray, colours: list[str]) -> None:
    """Draw dots on a logarithmic axis of a decade at least; what is 0 or far below the rest is written out."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    positive = values[np.isfinite(values) & (values > 0)]
    top = positive.max() if len(positive) else 1.0
    shown = positive[positive > top / 10**DECADES]
    floor = min(shown.min() / 2 if len(shown) else top / 2, top / 6)
    for y, (value, colour) in enumerate(zip(values, colours, strict=True)):
        if np.isfinite(value) and value > floor:
            axis.plot([value], [y], "o", color=colour, markersize=6)
        else:
            words = "-" if not np.isfinite(value) else "0" if value == 0 else f"{value:.0e}"
            axis.text(floor, y, f" {words}", va="center", fontsize=7, color=colour)
    axis.set_xscale("log")
    axis.set_xlim(floor, top * 1.7)
    axis.xaxis.set_minor_formatter(NullFormatter())
    if top * 1.7 < floor * 10**NARROW:  # powers of ten alone would leave a tick or two
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.tick_params(axis="x", labelsize=7)
    axis.grid(axis="x", alpha=0.3, which="both")
    axis.grid(axis="y", alpha=0.3)
