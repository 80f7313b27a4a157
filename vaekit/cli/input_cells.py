"""Cells of a command: its files, or the training data of its model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vaekit._core.urls import path_text
from vaekit.data.cells.file_names import FILE_COLUMN
from vaekit.exceptions import CheckpointError, DataError

if TYPE_CHECKING:
    from anndata import AnnData

    from vaekit.data.cells.count_source import CountSource
    from vaekit.data.cells.query import QueryData
    from vaekit.data.figure_columns import FigureColumns
    from vaekit.models import VAE


class InputCells(NamedTuple):
    """Cells of a command.

    Attributes
    ----------
    cells : AnnData or list of str
        Cells in memory, or their files, for the functions of ``vaekit.analysis``.
    layer : str or None
        Layer of their counts; None means that of the training data.
    paths : list of str
        Their files; empty for the data packaged with scanpy.
    """

    cells: AnnData | list[str]
    layer: str | None
    paths: list[str]

    def open(self, model: VAE) -> CountSource:
        """Open the cells as a model reads them, without their counts."""
        from vaekit.analysis.model_source import open_cells

        return open_cells(model, self.cells, self.layer)

    def find_column(self, model: VAE, key: str | None) -> str | None:
        """Return the name of a column of ``obs``, or None if the cells do not have it."""
        return key if key in self.open(model).obs.columns else None

    def prepare(
        self, model: VAE, batch_key: str | None, label_key: str | None = None, source: CountSource | None = None
    ) -> QueryData:
        """Return the cells in the form of the training data.

        Parameters
        ----------
        model : VAE
            Trained model.
        batch_key, label_key : str or None
            Columns of ``obs``; a batch_key of None means that of the training data.
        source : CountSource, optional
            The cells from :meth:`open`. None: opened again.
        """
        from vaekit.analysis.model_source import get_count_registry
        from vaekit.data import prepare_query

        return prepare_query(source or self.open(model), get_count_registry(model), batch_key, label_key)

    def figure_columns(
        self,
        model: VAE,
        source: CountSource,
        color: Sequence[str] | None = None,
        batch_key: str | None = None,
        label_key: str | None = None,
    ) -> FigureColumns:
        """Return batch, label, the columns and genes of ``color``, and the file of each cell if there are several.

        Parameters
        ----------
        model : VAE
            Trained model.
        source : CountSource
            The cells from :meth:`open`.
        color, batch_key, label_key
            As in :func:`vaekit.analysis.plot_umap`.

        Raises
        ------
        DataError
            If ``label_key`` or a name of ``color`` is given, but not found.
        """
        import pandas as pd

        from vaekit.analysis.plot_umap import figure_columns

        columns = figure_columns(model, source, color, batch_key, label_key)
        if len(self.paths) > 1:
            columns.values.setdefault(FILE_COLUMN, pd.Categorical(source.obs[FILE_COLUMN]))
        return columns


def resolve_cells(
    model: VAE,
    checkpoint: str | Path,
    data: Sequence[str] | None,
    layer: str | None,
    copied: bool = False,
    argument: str = "data",
    genes_in: str | None = None,
) -> InputCells:
    """Return the files of the cells, or the training data of the model.

    Parameters
    ----------
    model : VAE
        Trained model.
    checkpoint : str or Path
        Its checkpoint, for messages.
    data : sequence of str or None
        Files of cells; None or no file means the training data.
    layer : str or None
        Layer of the counts; None means that of the training data.
    copied : bool
        Whether the command writes a copy of the cells. Then several files are read into one AnnData.
    argument : str
        Name of ``data`` in messages.
    genes_in : str or None
        Place of the genes in files whose form does not determine it (:func:`vaekit.data.read_cells`).

    Raises
    ------
    CheckpointError
        If the training data are needed, but are images, were in memory, or have changed.
    DataError
        If a file is named twice or cannot be read.
    """
    from vaekit.analysis import load_training_data
    from vaekit.analysis.model_source import get_count_registry
    from vaekit.data.cells.file_formats import are_stores, read_files
    from vaekit.data.cells.sources import join_files
    from vaekit.data.cells.stores import absolute_paths

    if data:
        paths = [path_text(path) for path in ([data] if isinstance(data, str) else data)]
    else:
        training_data: Any = load_training_data(model, backed=True)
        if training_data.kind != "counts":
            raise CheckpointError(
                f"{checkpoint} was trained on images. Pass the checkpoint of a model of gene expression."
            )
        layer, path = layer or training_data.counts_layer, training_data.config["init_args"]["path"]
        genes_in = training_data.genes_in
        if path is None:  # packaged with scanpy
            return InputCells(training_data.adata, layer, [])
        paths = absolute_paths(path)
    if twice := [path for path in paths if paths.count(path) > 1]:
        raise DataError(f"{argument} names {twice[0]} twice. Name each file once.")
    if genes_in is None and (len(paths) == 1 or not copied) and are_stores(paths):
        return InputCells(paths, layer, paths)
    registry, parts = get_count_registry(model), read_files(paths, genes_in)
    adata = join_files(parts, paths, layer or registry["matrix"], registry["gene_name_key"])
    return InputCells(adata, layer, paths)
