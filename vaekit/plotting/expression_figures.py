"""Figures of the expression of genes in groups of cells, drawn by scanpy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


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
    from matplotlib import pyplot

    groups = pd.Categorical(color.index, categories=list(color.index))
    adata = AnnData(
        np.zeros(color.shape, dtype=np.float32),
        obs=pd.DataFrame({"group": groups}, index=[str(name) for name in color.index]),
        var=pd.DataFrame(index=list(color.columns)),
    )
    tables = {"dot_color_df": color, "dot_size_df": size}
    plot = sc.pl.DotPlot(adata, {name: list(group) for name, group in genes.items()}, "group", title=title, **tables)
    plot.style(cmap="Reds", dot_edge_color="gray", dot_edge_lw=0.3)
    plot.legend(colorbar_title="mean expression,\nrelative to the largest", size_title="cells with a count (%)")
    plot.make_figure()
    figure: Figure = plot.fig
    pyplot.close(figure)  # scanpy registers its figures in pyplot
    return figure


def plot_cells(
    expression: pd.DataFrame, groups: pd.Categorical, genes: Mapping[str, Sequence[str]], label: str, title: str = ""
) -> Figure:
    """Plot the expression of genes in each cell as a heat map (``scanpy.pl.heatmap``).

    Parameters
    ----------
    expression : pandas.DataFrame
        Expression, one row for each cell and one column for each gene.
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
    from matplotlib import pyplot

    adata = AnnData(
        expression.to_numpy(np.float32),
        obs=pd.DataFrame({label: groups}, index=[f"cell{i}" for i in range(len(expression))]),
        var=pd.DataFrame(index=list(expression.columns)),
    )
    axes = sc.pl.heatmap(
        adata, {name: list(group) for name, group in genes.items()}, label, show=False, show_gene_labels=True
    )
    figure: Figure = axes["heatmap_ax"].figure
    figure.suptitle(title)
    pyplot.close(figure)  # scanpy registers its figures in pyplot
    return figure
