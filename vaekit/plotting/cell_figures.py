"""Figures of the commands for cells: genes on a UMAP, means of genes, transferred labels, markers of codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit.plotting import embedding_figures
from vaekit.plotting.embedding_figures import category_colors, draw_points, new_figure, sample_points

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

MAX_GENES = 12  # of a figure of genes on a UMAP
MAX_CODES, MAX_NAMED = 40, 12  # codes of a heat map; genes named in a scatter plot
PANEL = 3.0  # inches
HIGH_QUANTILE = 0.99  # upper end of color scales, so that single cells do not determine them
SEQUENTIAL = "viridis"


def plot_gene_means(counts: np.ndarray, denoised: np.ndarray, genes: Sequence[str]) -> Figure:
    """Plot the mean expression of each gene in the model against its mean in the counts.

    The genes that differ most are named. Genes without counts are omitted.

    Parameters
    ----------
    counts, denoised : array, shape (genes,)
        Mean over the cells of the scaled counts, and of the expected expression.
    genes : sequence of str
        Names of the genes.
    """
    figure = new_figure(5.5, 5.2)
    axis = figure.subplots()
    shown = np.flatnonzero((counts > 0) & (denoised > 0))
    x, y = counts[shown], denoised[shown]
    axis.scatter(x, y, s=8, color="tab:blue", alpha=0.6, linewidths=0)
    limits = [min(x.min(initial=1), y.min(initial=1)), max(x.max(initial=1), y.max(initial=1))]
    axis.plot(limits, limits, color="gray", linewidth=0.8, zorder=0)
    axis.set(xscale="log", yscale="log", xlabel="mean of the counts, scaled", ylabel="mean expected expression")
    difference = np.abs(np.log2(y) - np.log2(x))
    for index in np.argsort(-difference, kind="stable")[:MAX_NAMED]:
        axis.annotate(genes[shown[index]], (x[index], y[index]), (3, 2), textcoords="offset points", fontsize=7)
    half = np.median(difference) if len(difference) else np.nan
    axis.set_title(f"{len(shown)} genes; half of them differ by less than {2**half:.2f}-fold", fontsize=10)
    return figure


def plot_genes(latents: np.ndarray, expression: Mapping[str, pd.DataFrame]) -> Figure:
    """Plot the expression of genes on the UMAP of the latents: a column per gene, and a row per kind of expression.

    Colors show log(1 + expression), up to the 99th percentile of the row and gene.

    Parameters
    ----------
    latents : array, shape (cells, dimensions)
        Coordinates in latent space.
    expression : Mapping[str, pandas.DataFrame]
        Expression of the same genes in the same cells, by the name of the row. At most 12 genes are shown.
    """
    index = sample_points(len(latents))
    coordinates = embedding_figures.umap_coordinates(latents[index])
    genes = list(next(iter(expression.values())).columns)[:MAX_GENES]
    figure = new_figure(PANEL * len(genes) + 0.8, PANEL * len(expression) + 0.4)
    axes = figure.subplots(len(expression), len(genes), squeeze=False)
    for row, (name, table) in zip(axes, expression.items(), strict=True):
        for axis, gene in zip(row, genes, strict=True):
            _draw_values(figure, axis, coordinates, np.log1p(table[gene].to_numpy(float)[index]))
            axis.set(title=f"{gene}, {name}", xlabel="", ylabel="")
    shown = f"{len(index)} of {len(latents)}" if len(index) < len(latents) else f"all {len(latents)}"
    figure.suptitle(f"log(1 + expression), {shown} cells", fontsize=10)
    return figure


def plot_transferred_labels(latents: np.ndarray, labels: pd.Categorical, uncertainty: np.ndarray) -> Figure:
    """Plot the uncertainty of each label, and label and uncertainty on the UMAP of the latents.

    Parameters
    ----------
    latents : array, shape (cells, dimensions)
        Coordinates of the labeled cells in latent space.
    labels : pandas.Categorical
        Transferred label of each cell.
    uncertainty : array, shape (cells,)
        Uncertainty of each label, between 0 and 1.
    """
    from matplotlib.colors import to_rgba_array

    index, codes = sample_points(len(latents)), np.asarray(labels.codes)
    coordinates = embedding_figures.umap_coordinates(latents[index])
    sizes = np.bincount(codes, minlength=len(labels.categories))
    order = np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes)]
    colors = to_rgba_array(category_colors(labels.categories))
    figure = new_figure(15, max(4.6, 1.2 + 0.26 * len(order)))
    left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1.1, 1.2))
    _draw_quantiles(left, [uncertainty[codes == code] for code in order], colors[order])
    left.set_yticks(range(len(order)), [f"{labels.categories[code]} ({sizes[code]})" for code in order], fontsize=8)
    left.set(xlabel="uncertainty: median, quartiles, 5 to 95 %", title="labels (cells)")
    draw_points(middle, coordinates, colors[codes[index]])
    middle.set_title("label")
    box = {"boxstyle": "round,pad=0.1", "facecolor": "white", "alpha": 0.6, "linewidth": 0}
    for code in np.intersect1d(order, codes[index]):
        center = np.median(coordinates[codes[index] == code], axis=0)
        middle.annotate(str(labels.categories[code]), center, fontsize=7, ha="center", fontweight="bold", bbox=box)
    _draw_values(figure, right, coordinates, uncertainty[index], 0.0, 1.0)
    right.set_title("uncertainty")
    return figure


def plot_markers(table: pd.DataFrame, n_genes: int = 5, title: str = "") -> Figure:
    """Plot the log2 fold change of the top genes of each code in every code, as a heat map.

    Parameters
    ----------
    table : pandas.DataFrame
        Result of :func:`vaekit.analysis.markers`. Combinations of code and gene that it lacks are gray: pass the table
        of all genes (``n_genes`` of :func:`vaekit.analysis.markers`) for a complete figure.
    n_genes : int
        Number of genes per code.
    title : str
        Title of the figure.

    Examples
    --------
    >>> import vaekit
    >>> figure = vaekit.analysis.plot_markers(vaekit.analysis.markers(adata, model), n_genes=3)
    >>> figure.savefig("markers.png")
    """
    groups = {str(code): part for code, part in table.groupby("code", sort=False)}
    codes = list(groups)[:MAX_CODES]
    genes = list(dict.fromkeys(gene for code in codes for gene in groups[code]["gene"].head(n_genes)))
    values = table.pivot_table(index="code", columns="gene", values="log2_fold_change").reindex(codes)[genes]
    names = [f"{code} ({groups[code]['n_cells'].iloc[0]} cells)" for code in codes]
    figure = new_figure(2.6 + 0.17 * len(genes), 1.8 + 0.26 * len(codes))
    axis = figure.subplots()
    limit = max(0.5, float(np.nanquantile(np.abs(values.to_numpy()), HIGH_QUANTILE)))
    axis.set_facecolor("lightgray")
    image = axis.imshow(values, aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    axis.set_yticks(range(len(codes)), names, fontsize=8)
    axis.set_xticks(range(len(genes)), genes, fontsize=7, rotation=90)
    axis.tick_params(length=0)
    axis.set_title(title or f"top {n_genes} genes of each code, by usage", fontsize=10)
    figure.colorbar(image, label="log2 fold change", fraction=0.05, pad=0.02)
    return figure


def _draw_quantiles(axis: Any, groups: Sequence[np.ndarray], colors: np.ndarray) -> None:
    """Draw the median, the quartiles and the 5 and 95 % quantiles of each group, the first group on top."""
    for row, (group, color) in enumerate(zip(groups, colors, strict=True)):
        low, lower, median, upper, high = np.quantile(group, (0.05, 0.25, 0.5, 0.75, 0.95))
        axis.plot([low, high], [row, row], color=color, linewidth=1)
        axis.plot([lower, upper], [row, row], color=color, linewidth=6, solid_capstyle="butt")
        axis.plot(median, row, "|", color="black", markersize=8)
    axis.set(xlim=(-0.02, 1.02), ylim=(len(groups) - 0.4, -0.6))


def _draw_values(
    figure: Figure, axis: Any, coordinates: np.ndarray, values: np.ndarray, low: float = 0.0, high: float | None = None
) -> None:
    """Draw points with a color scale."""
    top = high if high is not None else max(float(np.quantile(values, HIGH_QUANTILE)), 1e-6)
    dots = draw_points(axis, coordinates, values, cmap=SEQUENTIAL, vmin=low, vmax=top)
    figure.colorbar(dots, ax=axis, fraction=0.04, pad=0.02).ax.tick_params(labelsize=7)
