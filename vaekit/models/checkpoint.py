"""Models from checkpoints, by plain data alone."""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vaekit.component import from_config
from vaekit.exceptions import CheckpointError, VaekitError
from vaekit.models.vae import VAE


def read_checkpoint(path: Any, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint without running code from it (``weights_only=True``).

    Raises
    ------
    CheckpointError
        If the file is missing, truncated, or not made by vaekit.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint at {path}" + (" (it is a folder)" if path.is_dir() else ""))
    try:
        checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is no checkpoint of vaekit: it holds more than plain data, and was not loaded"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, struct.error, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint; it may be truncated ({error})") from error
    arguments = checkpoint.get("hyper_parameters") if isinstance(checkpoint, dict) else None
    if not isinstance(arguments, Mapping) or not isinstance(arguments.get("_class_path"), str):
        raise CheckpointError(f"{path} is no checkpoint of vaekit: it names no model class")
    return checkpoint


def load(path: Any, expected: type[VAE] = VAE, map_location: Any = "cpu") -> VAE:
    """Load a trained model, in evaluation mode.

    Parameters
    ----------
    path
        Checkpoint file, such as ``runs/pbmc_mixed/last.ckpt``.
    expected
        Class that the model must have.
    map_location
        Device of the weights.

    Raises
    ------
    CheckpointError
        If the file is no checkpoint of vaekit, holds another class, or its weights do not fit.
    """
    checkpoint = read_checkpoint(path, map_location)
    arguments = dict(checkpoint["hyper_parameters"])
    class_path = arguments.pop("_class_path")
    try:
        model = from_config({"class_path": class_path, "init_args": arguments})
    except (VaekitError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its model cannot be made again: {error}") from error
    if not isinstance(model, expected):
        raise CheckpointError(f"{path} holds a {class_path}, not a {expected.__name__}; vaekit.load takes any of them")
    try:
        model.load_state_dict(checkpoint["state_dict"])
    except (RuntimeError, KeyError) as error:
        raise CheckpointError(f"{path}: its weights do not fit its own model: {error}") from error
    model.reference = checkpoint.get("reference")
    return model.eval().to(map_location)
