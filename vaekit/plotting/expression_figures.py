"""Figures of the expression of genes in groups of cells, drawn by scanpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit.plotting.names import as_text
from vaekit.plotting.palettes import category_colors

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

NAME_HEIGHT = 0.16  # inches of the name of a group


def plot_dots(color: pd.DataFrame, size: pd.DataFrame, genes: Mapping[str, Sequence[str]], title: str = "") -> Figure:
    """Plot two values of each gene in each group as the color and the size of a dot (``scanpy.pl.DotPlot``).

    Parameters
    ----------
    color, size : pandas.DataFrame
        Mean expression relative to the largest, and fraction of cells with a count, between 0 and 1. One row for each
        group and one column for each gene.
    genes : mapping of str to sequence of str
        Genes to show, by the name above them.
    title : str
        Title of the figure.
    """
    import pandas as pd
    import scanpy as sc
    from anndata import AnnData

    color, size = _escape_table(color), _escape_table(size)
    groups = pd.Categorical(color.index, categories=list(color.index))
    adata = AnnData(
        np.zeros(color.shape, dtype=np.float32),
        obs=pd.DataFrame({"group": groups}, index=list(color.index)),
        var=pd.DataFrame(index=list(color.columns)),
    )
    plot = sc.pl.DotPlot(adata, _escape_genes(genes), "group", dot_color_df=color, dot_size_df=size)
    plot.style(cmap="Reds", dot_edge_color="gray", dot_edge_lw=0.3)
    plot.legend(colorbar_title="mean expression,\nrelative to the largest", size_title="cells with a count (%)")
    plot.make_figure()
    figure: Figure = plot.fig
    return _complete(figure, title)


def plot_cells(
    expression: pd.DataFrame, groups: pd.Categorical, genes: Mapping[str, Sequence[str]], label: str, title: str = ""
) -> Figure:
    """Plot the expression of genes in each cell as a heat map (``scanpy.pl.heatmap``).

    Parameters
    ----------
    expression : pandas.DataFrame
        log(1 + counts per 10,000), one row for each cell and one column for each gene.
    groups : pandas.Categorical
        Group of each cell.
    genes : mapping of str to sequence of str
        Genes to show, by the name above them.
    label : str
        Name of the groups together.
    title : str
        Title of the figure.
    """
    import pandas as pd
    import scanpy as sc
    from anndata import AnnData

    label = as_text(label)
    names = [as_text(str(name)) for name in groups.categories]
    adata = AnnData(
        expression.to_numpy(np.float32),
        obs=pd.DataFrame({label: groups.rename_categories(names)}, index=[f"cell{i}" for i in range(len(expression))]),
        var=pd.DataFrame(index=[as_text(name) for name in expression.columns]),
        uns={f"{label}_colors": category_colors(groups.categories)},
    )
    axes = sc.pl.heatmap(adata, _escape_genes(genes), label, show=False, show_gene_labels=True)
    axes["heatmap_ax"].images[0].colorbar.set_label("log(1 + counts per 10,000)")
    _spread_names(axes["groupby_ax"], len(expression))
    return _complete(axes["heatmap_ax"].figure, title)


def _escape_genes(genes: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    return {as_text(name): [as_text(gene) for gene in group] for name, group in genes.items()}


def _escape_table(table: pd.DataFrame) -> pd.DataFrame:
    return table.rename(index=lambda name: as_text(str(name)), columns=as_text)


def _spread_names(axis: Any, num_cells: int) -> None:
    """Move the names of small groups apart that would cover each other."""
    height = axis.figure.get_figheight() * axis.get_position().height
    gap = NAME_HEIGHT / height * num_cells
    positions, names = np.asarray(axis.get_yticks(), dtype=float), [text.get_text() for text in axis.get_yticklabels()]
    for index in range(1, len(positions)):
        positions[index] = max(positions[index], positions[index - 1] + gap)
    for index in range(len(positions) - 1, -1, -1):
        positions[index] = min(positions[index], num_cells - gap * (len(positions) - index - 0.5))
    axis.set_yticks(positions, names)


def _complete(figure: Figure, title: str) -> Figure:
    """Return a figure of scanpy with a title above the names of the groups, and whole brackets."""
    from matplotlib import pyplot

    pyplot.close(figure)  # scanpy registers its figures in pyplot
    for axis in figure.axes:
        for bracket in axis.patches:
            bracket.set_clip_on(False)
    if title:
        top = figure.get_tightbbox().y1 / figure.get_figheight()
        figure.suptitle(as_text(title), y=top + 0.1 / figure.get_figheight(), va="bottom", fontsize=11)
    return figure
