"""Figures of genes: their expression on a UMAP, their means, and the markers of codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from vaekit.plotting import embedding_figures
from vaekit.plotting.blocks import PanelBlock, stack_blocks
from vaekit.plotting.color_keys import NumberKey
from vaekit.plotting.figure_files import new_figure
from vaekit.plotting.names import as_text, label_points, shorten_names
from vaekit.plotting.points import sample_points
from vaekit.plotting.table_argument import check_table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

MAX_GENES, GENE_PANEL = 12, 3.2  # genes of a figure on a UMAP, and inches per side
MAX_CODES, MAX_NAMED = 40, 12  # codes of a heat map; genes named in a scatter plot
HIGH_QUANTILE = 0.99  # upper end of color scales, so that single cells do not determine them
EXPRESSION = "log(1 + expression)"


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
    axis.scatter(x, y, s=8, color="tab:blue", alpha=0.6, linewidths=0, rasterized=True)
    limits = [min(x.min(initial=1), y.min(initial=1)), max(x.max(initial=1), y.max(initial=1))]
    axis.plot(limits, limits, color="gray", linewidth=0.8, zorder=0)
    axis.set(xscale="log", yscale="log", xlabel="mean of the counts, scaled", ylabel="mean expected expression")
    difference = np.abs(np.log2(y) - np.log2(x))
    axis.set(xlim=axis.get_xlim(), ylim=axis.get_ylim())
    label_points(axis, x, y, [genes[int(place)] for place in shown], np.argsort(-difference, kind="stable"), MAX_NAMED)
    half = np.median(difference) if len(difference) else np.nan
    axis.set_title(f"{len(shown)} genes; half of them differ by less than {2**half:.2f}-fold", fontsize=10)
    return figure


def plot_genes(latents: np.ndarray, expression: Mapping[str, pd.DataFrame]) -> Figure:
    """Plot the expression of genes on the UMAP of the latents: the panels of a gene are next to each other.

    Colors show log(1 + expression), up to the 99th percentile of the panel.

    Parameters
    ----------
    latents : array, shape (cells, dimensions)
        Coordinates in latent space.
    expression : Mapping[str, pandas.DataFrame]
        Expression of the same genes in the same cells, by its kind, such as "counts". At most 12 genes are shown.
    """
    index = sample_points(len(latents))
    coordinates = embedding_figures.umap_coordinates(latents[index])
    keys = {}
    for gene in list(next(iter(expression.values())).columns)[:MAX_GENES]:
        for kind, table in expression.items():
            values = np.log1p(table[gene].to_numpy(float)[index])
            top = max(float(np.quantile(values, HIGH_QUANTILE)), 1e-6)
            keys[f"{gene}, {kind}"] = NumberKey(values, EXPRESSION, (0.0, top))
    title = embedding_figures.umap_title(len(index), len(latents))
    return stack_blocks([PanelBlock(coordinates, keys, GENE_PANEL)], title)


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
    check_table(table, ["code", "gene", "log2_fold_change"], "markers")
    groups = {str(code): part for code, part in table.groupby("code", sort=False)}
    codes = list(groups)[:MAX_CODES]
    genes = list(dict.fromkeys(gene for code in codes for gene in groups[code]["gene"].head(n_genes)))
    values = table.pivot_table(index="code", columns="gene", values="log2_fold_change").reindex(codes)[genes]
    names = [f"{code} ({groups[code]['n_cells'].iloc[0]} cells)" for code in codes]
    figure = new_figure(max(5.0, 2.6 + 0.17 * len(genes)), 1.8 + 0.26 * len(codes))
    axis = figure.subplots()
    limit = max(0.5, float(np.nanquantile(np.abs(values.to_numpy()), HIGH_QUANTILE)))
    axis.set_facecolor("lightgray")
    image = axis.imshow(values, aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    axis.set_yticks(range(len(codes)), names, fontsize=8)
    axis.set_xticks(range(len(genes)), shorten_names(genes, 20), fontsize=7, rotation=90)
    axis.tick_params(length=0)
    hidden = f" ({len(codes)} of {len(groups)} codes)" if len(codes) < len(groups) else ""
    axis.set_title(as_text(title or f"top {n_genes} genes of each code, by usage") + hidden, fontsize=10)
    figure.colorbar(image, label="log2 fold change", fraction=0.05, pad=0.02)
    return figure
