"""Models from checkpoints, by plain data alone."""

from __future__ import annotations

import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from vaekit._core.atomic import atomic_write
from vaekit._core.class_paths import trust as trust_packages
from vaekit._core.components import from_config
from vaekit.exceptions import CheckpointError, ConfigError, VaekitError
from vaekit.models.export import is_exported, read_exported
from vaekit.models.parameter_groups import match_precision
from vaekit.models.vae import VAE


def read_checkpoint(path: Any, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint, or what ``vaekit export`` made of one, without running code from it (``weights_only=True``).

    Raises
    ------
    CheckpointError
        If the file is missing, truncated, or not made by vaekit.
    """
    path = Path(path)
    exported = is_exported(path)
    if not path.is_file() and not exported:
        raise CheckpointError(f"there is no checkpoint at {path}" + (" (it is a folder)" if path.is_dir() else ""))
    if not exported:
        check_undamaged(path)
    try:
        checkpoint = (
            read_exported(path, map_location)
            if exported
            else torch.load(path, map_location=map_location, weights_only=True)
        )
    except VaekitError:  # a ValueError too
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is no checkpoint of vaekit: it holds more than plain data, and was not loaded"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, struct.error) as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint; it may be truncated ({error})") from error
    arguments = checkpoint.get("hyper_parameters") if isinstance(checkpoint, dict) else None
    if not isinstance(arguments, Mapping) or not isinstance(arguments.get("_class_path"), str):
        raise CheckpointError(f"{path} is no checkpoint of vaekit: it names no model class")
    return checkpoint


def check_undamaged(path: Path) -> None:
    """Check that no byte of a checkpoint has changed since it was written.

    torch.save writes an uncompressed zip archive with the CRC-32 of each record, of the weights and of everything else;
    torch.load does not compare them.

    Raises
    ------
    CheckpointError
        If the file is damaged, truncated, or not such an archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    # a changed header can look like an encrypted or compressed record
    except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, OSError, ValueError, struct.error) as error:
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint: it is truncated, damaged or of another format ({error}). Restore "
            "it from a copy, or train again"
        ) from error
    if damaged is not None:
        raise CheckpointError(
            f"{path} is damaged: the contents of {damaged} have changed since it was written. Restore it from a copy, "
            "or train again"
        )


def check_load_arguments(given: Mapping[str, Any]) -> None:
    """Check Lightning's further arguments of ``load_from_checkpoint``: only what holds anyway can be given.

    Raises
    ------
    ConfigError
        If another is: it would have been ignored.
    """
    holds = {"hparams_file": (None,), "strict": (None, True), "weights_only": (None, True)}
    if wrong := {name: value for name, value in given.items() if value not in holds.get(name, ())}:
        raise ConfigError(
            f"load_from_checkpoint: {', '.join(f'{name}={value!r}' for name, value in wrong.items())} cannot be given: "
            "a model is loaded with the arguments and weights of its checkpoint; for others make the model anew, and "
            "give it the weights by model.load_state_dict(vaekit.load(path).state_dict())"
        )


def save(model: VAE, path: Any) -> None:
    """Write a model that no trainer holds to a checkpoint: one from ``vaekit.analysis.map_query``, say.

    What :func:`load` and the commands read: weights, arguments and the names of the data, without the state of an
    optimizer, so that no training can go on from it. A file of that name is replaced.

    Parameters
    ----------
    model
        The model.
    path
        File to write, such as ``mapped.ckpt``.

    Raises
    ------
    OutputError
        If it cannot be written: for a folder that does not exist, or a full disk.
    """
    checkpoint: dict[str, Any] = {
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": pl.__version__,
        "state_dict": model.state_dict(),
        "hyper_parameters": dict(model.hparams),
    }
    model.on_save_checkpoint(checkpoint)
    with atomic_write(path) as temporary:
        torch.save(checkpoint, temporary)


def load(path: Any, expected: type[VAE] = VAE, map_location: Any = "cpu", trust: Iterable[str] = ()) -> VAE:
    """Load a trained model, in evaluation mode. No code of the file runs, and it can name none outside vaekit.

    Parameters
    ----------
    path
        Checkpoint file, such as ``runs/pbmc_mixed/last.ckpt``.
    expected
        Class that the model must have.
    map_location
        Device of the weights.
    trust
        Packages whose components the model may have besides vaekit's own, such as ``["mypackage"]``; they stay
        trusted in this process.

    Raises
    ------
    CheckpointError
        If the file is no checkpoint of vaekit, names a class outside vaekit and the trusted packages, holds another
        class, or its weights do not fit.
    """
    trust_packages(trust)
    checkpoint = read_checkpoint(path, map_location)
    arguments = dict(checkpoint["hyper_parameters"])
    class_path = arguments.pop("_class_path")
    try:
        model = from_config({"class_path": class_path, "init_args": arguments})
    except (VaekitError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: its model cannot be made again: {error}") from error
    if not isinstance(model, expected):
        raise CheckpointError(f"{path} holds a {class_path}, not a {expected.__name__}; vaekit.load takes any of them")
    try:
        match_precision(model, checkpoint["state_dict"])
        model.load_state_dict(checkpoint["state_dict"])
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: its weights do not fit its own model: {error}") from error
    model.data_registry = checkpoint.get("data_registry")
    return model.eval().to(map_location)
