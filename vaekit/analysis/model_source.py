"""A trained model, the data that it was trained on, and new cells in the form of these data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit._core.version import __version__
from vaekit.data.cells import query
from vaekit.data.cells.not_cells import check_no_checkpoint, not_cells
from vaekit.data.cells.query import QueryData
from vaekit.data.cells.sources import open_counts
from vaekit.data.fingerprint import fingerprint
from vaekit.exceptions import CheckpointError, DataError
from vaekit.models import VAE, load
from vaekit.models.model_argument import check_model

if TYPE_CHECKING:
    from anndata import AnnData

    from vaekit.data.cells.count_source import CountSource


def resolve_model(model: VAE | str | Path) -> tuple[VAE, str]:
    """Return a model, loaded if its checkpoint is given, and the path of the checkpoint ("" without one).

    Raises
    ------
    CheckpointError
        If the file is not a vaekit checkpoint.

    Examples
    --------
    >>> import vaekit
    >>> vaekit.save(model, "model.ckpt")
    >>> vaekit.analysis.resolve_model("model.ckpt")[1], vaekit.analysis.resolve_model(model)[1]
    ('model.ckpt', '')
    """
    return (load(model), str(model)) if isinstance(model, str | Path) else (check_model(model), "")


def check_in_memory(adata: Any, command: str | None = None, argument: str = "adata") -> None:
    """Check that a function can write its results into ``adata``, before any work.

    Parameters
    ----------
    adata : object
        Argument to check.
    command : str or None
        Command that does the same for a file.
    argument : str
        Name of the argument.

    Raises
    ------
    DataError
        If it is not an AnnData, or a view of a backed one.
    """
    from anndata import AnnData

    if isinstance(adata, AnnData):
        if adata.isbacked and adata.is_view:
            raise DataError(
                f"{argument} is a view of a backed AnnData, which cannot be written to. Pass {argument}.to_memory()."
            )
        return
    if not isinstance(adata, str | Path):
        raise not_cells(adata, "an AnnData: it receives the results", argument)
    check_no_checkpoint(adata, argument)
    other = "" if command is None else f" Or run `vaekit {command} CKPT {adata} -o OUT.h5ad`, which writes a copy."
    raise DataError(
        f"{argument}={str(adata)!r} is a path, but must be an AnnData: it receives the results. Pass "
        f"anndata.read_h5ad(...), or anndata.io.read_zarr(...) of a zarr store.{other}"
    )


def writable_adata(cells: Any) -> AnnData | None:
    """Return cells as an AnnData that receives results, or None if they are files, which never change.

    Raises
    ------
    DataError
        If they are a view of a backed AnnData.
    """
    if isinstance(cells, str | Path | Sequence):
        return None
    check_in_memory(cells)
    return cells


def provenance(model: VAE, missing_genes: list[str], checkpoint: str = "") -> dict[str, Any]:
    """Return the origin of results as plain data for ``adata.uns``."""
    registry = get_data_registry(model)
    return {
        "version": __version__,
        "model": str(model.hparams["_class_path"]),
        "latents": {name: type(latent).__name__ for name, latent in model.latents.items()},
        "checkpoint": checkpoint,
        "training_data": str(registry["source"]),
        "training_fingerprint": str(registry["fingerprint"]),
        "encoder_fingerprint": encoder_fingerprint(model),
        "missing_genes": np.array(missing_genes, dtype=str),
    }


def encoder_fingerprint(model: VAE) -> str:
    """Return a fingerprint of the encoder's weights: models with the same one have the same latents of a cell.

    New batches of :func:`vaekit.analysis.map_query` do not change it, unless the encoder sees the batch.
    """
    weights = model.networks.encoder.state_dict().values()
    return fingerprint(np.atleast_1d(value.detach().cpu().numpy()) for value in weights)


def get_data_registry(model: VAE) -> dict[str, Any]:
    """Return the data registry of a model: names and split of its training data.

    Raises
    ------
    CheckpointError
        If the model was never trained on a data module.

    Examples
    --------
    >>> import vaekit
    >>> registry = vaekit.analysis.get_data_registry(model)
    >>> registry["batch_categories"], registry["feature_names"][:2]
    (['batch0', 'batch1'], ['gene0', 'gene1'])
    """
    registry = check_model(model).data_registry
    if registry is None:
        raise CheckpointError(
            "The model has no data registry: it is not trained. Train one with vaekit.fit(adata), or this one with "
            "pytorch_lightning.Trainer().fit(model, datamodule=...)."
        )
    return registry


def get_count_registry(model: VAE) -> dict[str, Any]:
    """Return the data registry of a model of gene expression.

    Raises
    ------
    CheckpointError
        If the model was never trained on a data module, or on images.
    """
    registry = get_data_registry(model)
    if "feature_names" not in registry:
        raise CheckpointError("The model was trained on images, but a model of gene expression is required.")
    return registry


def open_cells(
    model: VAE, cells: AnnData | str | Path | Sequence[str | Path], layer: str | None = None, backed: bool = True
) -> CountSource:
    """Open cells with the matrix and the gene names that a model was trained with; counts are not read yet.

    Parameters
    ----------
    model : VAE
        Trained model of gene expression.
    cells : AnnData, path, or list of paths
        Cells, or their files (:func:`vaekit.data.read_cells`).
    layer : str or None
        Layer of the counts; None means that of the training data.
    backed : bool
        Whether counts of files that are stored as CSR stay there.

    Raises
    ------
    CheckpointError
        If the model was not trained on gene expression.
    DataError
        If the cells cannot be opened, or the layer does not exist.
    """
    registry = get_count_registry(model)
    mode, key = "backed" if backed else "in_memory", registry["gene_name_key"]
    return open_counts(cells, layer or registry["matrix"], key, mode, optional_key=True)  # type: ignore[arg-type]


def prepare_query(
    model: VAE,
    adata: AnnData | str | Path | Sequence[str | Path],
    layer: str | None = None,
    batch_key: str | None = None,
    label_key: str | None = None,
) -> QueryData:
    """Open cells and convert them to the form of a model's training data (:func:`vaekit.data.prepare_query`).

    Parameters
    ----------
    model : VAE
        Trained model of gene expression.
    adata : AnnData, path, or list of paths
        Cells, or their files (:func:`vaekit.data.read_cells`).
    layer, batch_key : str or None
        Layer of the counts, and column of ``.obs`` with the batch; None means those of the training data.
    label_key : str or None
        Column of ``.obs`` with labels.

    Raises
    ------
    CheckpointError
        If the model was not trained on gene expression.
    DataError
        If the cells do not match the model.

    Examples
    --------
    >>> import vaekit
    >>> query = vaekit.analysis.prepare_query(model, adata[:, :50], label_key="cluster")
    >>> len(query.dataset), len(query.missing_genes), query.label_categories
    (300, 10, ['cluster0', 'cluster1', 'cluster2'])
    """
    registry = get_count_registry(model)
    return query.prepare_query(open_cells(model, adata, layer), registry, batch_key, label_key)


def check_query(value: Any, argument: str = "query") -> None:
    """Raise a DataError if an argument is not the result of :func:`prepare_query`."""
    if not isinstance(value, QueryData):
        raise DataError(
            f"{argument} has type {type(value).__name__}, but must be the result of "
            "vaekit.analysis.prepare_query(model, adata)."
        )
