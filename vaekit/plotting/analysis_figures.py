"""Figures of differential expression and of the posterior predictive check."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vaekit.exceptions import DataError
from vaekit.plotting.names import as_text, label_points
from vaekit.plotting.table_argument import check_table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

MAX_NAMES = 15  # of genes in a volcano plot
MAX_EVIDENCE = 16.0  # -log10 probability; genes with more lie on the upper edge


def plot_volcano(table: pd.DataFrame, title: str = "") -> Figure:
    """Plot the probability of each gene against its fold change; called genes are red.

    The called genes with the largest products of both are named if there is space. The probability of no change is
    clipped at 1e-16.

    Parameters
    ----------
    table : pandas.DataFrame
        Result of :func:`vaekit.analysis.differential_expression`.
    title : str
        Title of the figure; "" means the names of the groups.

    Raises
    ------
    DataError
        If the table has several comparisons.

    Examples
    --------
    >>> import vaekit
    >>> table = vaekit.analysis.differential_expression(adata, model, "cluster", "cluster0", "cluster1")
    >>> figure = vaekit.analysis.plot_volcano(table, "cluster0 vs cluster1")
    >>> figure.savefig("volcano.png")
    """
    from matplotlib.figure import Figure

    check_table(table, ["comparison", "proba_not_de"], "differential_expression")
    if len(comparisons := table["comparison"].unique()) > 1:
        raise DataError(
            f"plot_volcano: the table has {len(comparisons)} comparisons, but must have one. Pass "
            f"table[table['comparison'] == {str(comparisons[0])!r}], or use vaekit.analysis.plot_dotplot(table)."
        )

    figure = Figure(figsize=(6.5, 5), layout="constrained")
    axis = figure.subplots()
    decision = decision_column(table)
    x = table["lfc_mean"].to_numpy(float)
    y = -np.log10(np.maximum(table["proba_not_de"].to_numpy(float), 10**-MAX_EVIDENCE))
    is_de = table[decision].to_numpy(bool)
    for mask, color, label in ((~is_de, "lightgray", "others"), (is_de, "tab:red", "called")):
        axis.scatter(x[mask], y[mask], s=7, color=color, linewidths=0, rasterized=True, label=f"{mask.sum()} {label}")
    order = np.flatnonzero(is_de)[np.argsort(-np.abs(x[is_de]) * y[is_de], kind="stable")]
    for side in (-1, 1):
        axis.axvline(side * float(table["delta"].iloc[0]), color="gray", linewidth=0.7, linestyle=":")
    axis.set(xlabel="log2 fold change (posterior mean)", ylabel="-log10 P(no change beyond delta)")
    axis.set_title(as_text(title or str(table["comparison"].iloc[0])))
    axis.set(xlim=axis.get_xlim(), ylim=axis.get_ylim())
    label_points(axis, x, y, list(map(str, table.index)), order, MAX_NAMES)
    axis.legend(frameon=False, fontsize=8, title=decision.replace("is_de_fdr_", "expected FDR "), title_fontsize=8)
    return figure


def decision_column(table: pd.DataFrame) -> str:
    """Return the name of the column with the called genes in a table of differential expression."""
    return next(str(column) for column in table.columns if column.startswith("is_de_fdr_"))


def plot_predictive_check(table: pd.DataFrame, title: str = "") -> Figure:
    """Plot variance against mean, and replicated against observed zero fractions; each dot is a gene.

    Parameters
    ----------
    table : pandas.DataFrame
        Result of :func:`vaekit.analysis.posterior_predictive_check`.
    title : str
        Title of the figure.

    Examples
    --------
    >>> import vaekit
    >>> table = vaekit.analysis.posterior_predictive_check(adata, model)
    >>> figure = vaekit.analysis.plot_predictive_check(table)
    >>> figure.savefig("ppc.png")
    """
    from matplotlib.figure import Figure

    check_table(table, ["mean_replicated", "variance_replicated"], "posterior_predictive_check")
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for suffix, size, color, label in (("", 16, "silver", "data"), ("_replicated", 4, "tab:blue", "replicated")):
        mean, variance = table[f"mean{suffix}"], table[f"variance{suffix}"]
        positive = (mean > 0) & (variance > 0)
        left.scatter(
            mean[positive], variance[positive], s=size, color=color, linewidths=0, rasterized=True, label=label
        )
    left.set(xscale="log", yscale="log", xlabel="mean count", ylabel="variance", title="mean and variance of genes")
    left.legend(frameon=False, fontsize=9, markerscale=1.5)
    right.plot([0, 1], [0, 1], color="gray", linewidth=0.7)
    zeros = table["zero_fraction"], table["zero_fraction_replicated"]
    right.scatter(*zeros, s=5, alpha=0.5, color="tab:blue", linewidths=0, rasterized=True)
    right.set(xlabel="zero fraction, data", ylabel="zero fraction, replicated", title="zeros of genes")
    if title:
        figure.suptitle(as_text(title))
    return figure
