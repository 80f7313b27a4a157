"""Figures of analyses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

NAMED = 15  # genes that a volcano plot names, at most
MOST_EVIDENCE = 16.0  # of a volcano plot's vertical axis: genes beyond lie on its upper edge
APART = 0.12, 0.035  # of the width and height of a volcano plot: names would overlap if nearer than both


def plot_volcano(table: pd.DataFrame, title: str = "") -> Figure:
    """Draw the probability of each gene against its fold change; those that are called are red.

    Names are given to those of the largest product of both, where there is room. The probability of no change is cut
    at 1e-16.

    Parameters
    ----------
    table
        From :func:`vaekit.analysis.differential_expression`.
    title
        Of the figure; "" for the names of the groups.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 5), layout="constrained")
    axis = figure.subplots()
    decision = next(column for column in table.columns if column.startswith("is_de_fdr_"))
    x = table["lfc_mean"].to_numpy(float)
    y = -np.log10(np.maximum(table["proba_not_de"].to_numpy(float), 10**-MOST_EVIDENCE))
    is_de = table[decision].to_numpy(bool)
    for rows, colour, label in ((~is_de, "lightgrey", "others"), (is_de, "tab:red", "called")):
        axis.scatter(x[rows], y[rows], s=7, color=colour, linewidths=0, label=f"{rows.sum()} {label}")
    order = np.flatnonzero(is_de)[np.argsort(-np.abs(x[is_de]) * y[is_de], kind="stable")]
    for number in _with_room(x, y, order)[:NAMED]:
        axis.annotate(
            str(table.index[number]), (x[number], y[number]), fontsize=7, xytext=(3, 2), textcoords="offset points"
        )
    for side in (-1, 1):
        axis.axvline(side * float(table["delta"].iloc[0]), color="grey", linewidth=0.7, linestyle=":")
    axis.set(xlabel="log2 fold change (posterior mean)", ylabel="-log10 P(no change beyond delta)")
    axis.set_title(title or str(table["comparison"].iloc[0]))
    axis.legend(frameon=False, fontsize=8, title=decision.replace("is_de_fdr_", "expected FDR "), title_fontsize=8)
    return figure


def plot_predictive_check(table: pd.DataFrame, title: str = "") -> Figure:
    """Draw variance against mean, and replicated against observed zero fractions, a dot a gene.

    Parameters
    ----------
    table
        From :func:`vaekit.analysis.posterior_predictive_check`.
    title
        Of the figure.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for suffix, size, colour, label in (("", 16, "silver", "data"), ("_replicated", 4, "tab:blue", "replicated")):
        mean, variance = table[f"mean{suffix}"], table[f"variance{suffix}"]
        shown = (mean > 0) & (variance > 0)
        left.scatter(mean[shown], variance[shown], s=size, color=colour, linewidths=0, label=label)
    left.set(xscale="log", yscale="log", xlabel="mean count", ylabel="variance", title="mean and variance of genes")
    left.legend(frameon=False, fontsize=9, markerscale=1.5)
    right.plot([0, 1], [0, 1], color="grey", linewidth=0.7)
    right.scatter(
        table["zero_fraction"], table["zero_fraction_replicated"], s=5, alpha=0.5, color="tab:blue", linewidths=0
    )
    right.set(xlabel="zero fraction, data", ylabel="zero fraction, replicated", title="zeros of genes")
    if title:
        figure.suptitle(title)
    return figure


def _with_room(x: np.ndarray, y: np.ndarray, order: np.ndarray) -> list[int]:
    """Return which of the points, in that order, lie apart from all chosen before them."""
    chosen: list[int] = []
    width, height = np.ptp(x) or 1.0, np.ptp(y) or 1.0
    for number in order:
        near = (np.abs(x[chosen] - x[number]) < APART[0] * width) & (np.abs(y[chosen] - y[number]) < APART[1] * height)
        if not near.any():
            chosen.append(int(number))
    return chosen
