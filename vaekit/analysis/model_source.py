"""A trained model, and the data that it was trained on, found again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import vaekit
from vaekit._core.components import from_config
from vaekit.data.cells.backed_counts import is_csr, matrix_of_file
from vaekit.data.cells.sources import local_paths
from vaekit.data.data_module import DataModule
from vaekit.exceptions import CheckpointError, DataError
from vaekit.models import VAE, load


def resolve_model(model: VAE | str | Path) -> tuple[VAE, str]:
    """Return a model given as such or by the path of its checkpoint, and that path ("" without one).

    Raises
    ------
    CheckpointError
        If the file is no checkpoint of vaekit.
    """
    return (load(model), str(model)) if isinstance(model, str | Path) else (model, "")


def check_in_memory(adata: Any, command: str | None = None, argument: str = "adata") -> None:
    """Check that what a function writes its results into is an AnnData; before any work.

    Parameters
    ----------
    adata
        The argument.
    command
        Command that does the same to a file, if there is one.
    argument
        Name of the argument.

    Raises
    ------
    DataError
        If it is a path, or something else.
    """
    from anndata import AnnData

    if isinstance(adata, AnnData):
        if adata.isbacked and adata.is_view:
            raise DataError(
                f"{argument} is a part of a backed AnnData, into which nothing can be written: pass "
                f"{argument}.to_memory()"
            )
        return
    if not isinstance(adata, str | Path):
        raise DataError(f"{argument} is a {type(adata).__name__}: the results go into an AnnData, pass one")
    other = "" if command is None else f", or use `vaekit {command} CKPT {adata} -o OUT.h5ad`, which writes a copy"
    raise DataError(
        f"{argument}={str(adata)!r} is a path: the results go into an AnnData: pass anndata.read_h5ad(...) (of a zarr "
        f"store, anndata.io.read_zarr(...)){other}"
    )


def provenance(model: VAE, missing_genes: list[str], checkpoint: str = "") -> dict[str, Any]:
    """Return where results come from, as plain data for ``adata.uns``."""
    registry = get_data_registry(model)
    return {
        "version": vaekit.__version__,
        "model": str(model.hparams["_class_path"]),
        "latents": {name: type(latent).__name__ for name, latent in model.latents.items()},
        "checkpoint": checkpoint,
        "training_data": str(registry["source"]),
        "training_fingerprint": str(registry["fingerprint"]),
        "missing_genes": np.array(missing_genes, dtype=str),
    }


def get_data_registry(model: VAE) -> dict[str, Any]:
    """Return the names and the split of the data that a model was trained on.

    Raises
    ------
    CheckpointError
        If the model was never trained on a datamodule.
    """
    if model.data_registry is None:
        raise CheckpointError(
            "this model knows no data: train it with Trainer.fit(model, datamodule=...) or load a trained checkpoint"
        )
    return model.data_registry


def load_training_data(model: VAE, backed: bool = False) -> DataModule:
    """Return the datamodule that a model was trained on, with the same split.

    Parameters
    ----------
    model
        A trained model.
    backed
        Whether counts stay in their files wherever they can, however small these are.

    Raises
    ------
    CheckpointError
        If the data were in memory only, or cannot be found as they were.
    """
    registry = get_data_registry(model)
    if registry.get("in_memory"):
        raise CheckpointError(
            "the model was trained on an AnnData in memory, which is gone: give the file to use (data.path)"
        )
    try:
        config = registry["config"]
        if backed and "feature_names" in registry:
            config = {**config, "init_args": {**config["init_args"], **_mode(config["init_args"])}}
        data = from_config(config)
        data.load_state_dict(registry)
        data.setup()
    except DataError as error:
        raise CheckpointError(f"the data that the model was trained on are not there as they were: {error}") from error
    return data


def _mode(arguments: Mapping[str, Any]) -> dict[str, str]:
    """Return the mode that leaves counts in their files, if all of these can be left there."""
    path = arguments["path"]
    paths = [] if path is None else local_paths(path)
    if not paths:
        return {}
    matrix = matrix_of_file(paths[0], arguments["layer"])
    return {"mode": "streamed"} if all(is_csr(file, matrix) for file in paths) else {}
