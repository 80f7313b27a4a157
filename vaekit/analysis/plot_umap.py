"""UMAP of the latents of cells, colored by columns, codes and genes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vaekit.analysis.embed import summarize_cells
from vaekit.analysis.model_source import get_count_registry, open_cells, resolve_model
from vaekit.data.cells.color_columns import known_categories, read_color_columns
from vaekit.data.cells.columns import read_column
from vaekit.data.cells.query import prepare_query, trained_batch_key
from vaekit.diagnostics.latent_figures import plot_summaries
from vaekit.models import VAE

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from vaekit.data.cells.count_source import CountSource
    from vaekit.data.figure_columns import FigureColumns
    from vaekit.plotting.figure_files import Figure


def plot_umap(
    adata: AnnData | str | Path | Sequence[str | Path],
    model: VAE | str | Path,
    color: Sequence[str] | str | None = None,
    *,
    layer: str | None = None,
    batch_key: str | None = None,
    label_key: str | None = None,
    batch_size: int = 1024,
    title: str = "",
    progress: bool = False,
) -> Figure:
    """Plot the UMAP of the latents of cells, one panel per batch, label, color, code and largest topic.

    Topics have bars of their mean proportions by label and a panel each. Of more than 20,000 cells, a random subset is
    shown that contains cells of every category. The result is a matplotlib figure with pixels for the points:
    ``figure.savefig("umap.pdf", dpi=300)``.

    Parameters
    ----------
    adata : AnnData, path or sequence of paths
        Cells with counts, not changed.
    model : VAE or path
        Trained model, or its checkpoint.
    color : sequence of str, str or None
        Columns of ``.obs``, or genes. Numbers have a color scale; text, booleans and categories have one color each,
        that of ``.uns["KEY_colors"]`` if it exists. Genes show log(1 + counts per 10,000).
    layer, batch_key : str or None
        As in :func:`vaekit.analysis.embed`.
    label_key : str or None
        Column of ``.obs`` with labels. None means the column of the training data, if the cells have it.
    batch_size : int
        Cells per mini-batch.
    title : str
        Beginning of the title.
    progress : bool
        Whether to show progress bars.

    Raises
    ------
    CheckpointError
        If the model was not trained on gene expression.
    DataError
        If the cells do not fit the model, or a name of ``color`` is neither a column nor a gene.

    Examples
    --------
    >>> import vaekit
    >>> color = ["cluster", adata.var_names[0]]  # a column of obs, and a gene
    >>> figure = vaekit.analysis.plot_umap(adata, model, color)  # doctest: +SKIP
    >>> figure.savefig("umap.pdf", dpi=300)  # doctest: +SKIP
    """
    model = resolve_model(model)[0]
    source = open_cells(model, adata, layer)
    columns = figure_columns(model, source, color, batch_key, label_key)
    query = prepare_query(source, get_count_registry(model), batch_key)
    summaries = summarize_cells(model, query, batch_size, progress)
    groups = label_column(model, columns, label_key)
    return plot_summaries(model, summaries, *columns, groups, title)


def figure_columns(
    model: VAE,
    source: CountSource,
    color: Sequence[str] | str | None = None,
    batch_key: str | None = None,
    label_key: str | None = None,
) -> FigureColumns:
    """Return batch, label and the columns and genes of ``color``, with the colors and categories of a model.

    Parameters
    ----------
    model : VAE
        Trained model, whose columns are used for keys that are None.
    source : CountSource
        Cells. They need not have the columns that the model uses.
    color, batch_key, label_key
        As in :func:`plot_umap`.

    Raises
    ------
    DataError
        If ``label_key`` or a name of ``color`` is given, but not found.
    """
    registry = get_count_registry(model)
    if label_key is not None:
        read_column(source.obs, label_key, "label_key", source.name)
    keys = [batch_key or trained_batch_key(registry), label_key or registry["config"]["init_args"].get("label_key")]
    source = source.round_counts(registry["round_counts"])
    return read_color_columns(source, color, keys, known_categories(registry), registry.get("colors"))


def label_column(model: VAE, columns: FigureColumns, label_key: str | None = None) -> pd.Categorical | None:
    """Return the labels among the columns of a figure; None if the cells do not have any."""
    key = label_key or get_count_registry(model)["config"]["init_args"].get("label_key")
    return columns.values.get(key)
