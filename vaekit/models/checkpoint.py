"""Checkpoints: reading, checks against damage, and models restored from plain data."""

from __future__ import annotations

import contextlib
import pickle
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from torch import nn

from vaekit._core.components import from_config
from vaekit.exceptions import CheckpointError, ConfigError, VaekitError, did_you_mean
from vaekit.models.export import is_exported, read_exported
from vaekit.models.parameter_groups import match_precision

Module = TypeVar("Module", bound=nn.Module)
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def read_checkpoint(path: Any, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint or an exported model without running code from it (``weights_only=True``).

    Raises
    ------
    CheckpointError
        If the file does not exist, is damaged, or was not written by vaekit.
    """
    path = Path(path)
    try:
        if is_exported(path):
            checkpoint = read_exported(path, map_location)
        else:
            check_undamaged(path)
            checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is not a vaekit checkpoint: it contains pickled objects, which are never loaded"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, struct.error) as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint; it may be truncated ({error})") from error
    arguments = checkpoint.get("hyper_parameters") if isinstance(checkpoint, dict) else None
    if not isinstance(arguments, Mapping) or not isinstance(arguments.get("_class_path"), str):
        raise CheckpointError(f"{path} is not a vaekit checkpoint: it does not name a model class")
    return checkpoint


def check_undamaged(path: Path) -> None:
    """Check that no byte of a checkpoint has changed since it was written.

    torch.save writes an uncompressed zip archive with a CRC-32 checksum per record, which torch.load does not compare.

    Raises
    ------
    CheckpointError
        If the file does not exist, or is damaged, truncated or not a zip archive.
    """
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} not found{_found_instead(path)}")
    with contextlib.suppress(OSError), path.open("rb") as file:
        if file.read(8) == HDF5_SIGNATURE:
            raise CheckpointError(f"{path} is an HDF5 file, such as cells, but must be a checkpoint: RUN/last.ckpt.")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    # a changed header can look like an encrypted or compressed record
    except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, OSError, ValueError, struct.error) as error:
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint: it is truncated, damaged or of another format ({error}). Restore "
            "it from a copy, or train again."
        ) from error
    if damaged is not None:
        raise CheckpointError(
            f"{path} is damaged: the contents of {damaged} have changed since it was written. Restore it from a copy, "
            "or train again."
        )


def _found_instead(path: Path) -> str:
    """Return the end of the message for a checkpoint that does not exist."""
    if path.is_dir():
        names = [name for name in ("best.ckpt", "last.ckpt") if (path / name).is_file()]
        return f": it is a run directory. Pass {path / names[0]}" if names else " (it is a directory)"
    if path.parent.is_dir() and (available := [file.name for file in path.parent.glob("*.ckpt")]):
        return f". {did_you_mean(path.name, available)}"
    runs = [file.as_posix() for file in Path("runs").glob("*/last.ckpt")]
    known = did_you_mean(str(path), runs) if runs else "There is none in ./runs."
    return f". `vaekit fit` writes RUN/last.ckpt; pass the path of that file. {known}"


def load_model(path: Any, expected: type[Module], map_location: Any = "cpu") -> Module:
    """Build the model of a checkpoint from its arguments, and load its weights, in evaluation mode.

    Raises
    ------
    CheckpointError
        If the checkpoint is damaged, names an untrusted class or one that is not ``expected``, or its weights do not
        fit.
    """
    checkpoint = read_checkpoint(path, map_location)
    arguments = dict(checkpoint["hyper_parameters"])
    class_path = arguments.pop("_class_path")
    try:
        model = from_config({"class_path": class_path, "init_args": arguments})
    except (VaekitError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: its model cannot be built: {error}") from error
    if not isinstance(model, expected):
        raise CheckpointError(
            f"{path} contains a {class_path}, not a {expected.__name__}. Load it with vaekit.load, which accepts every "
            "model."
        )
    try:
        match_precision(model, checkpoint["state_dict"])
        model.load_state_dict(checkpoint["state_dict"])
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: its weights do not fit its model: {error}") from error
    model.data_registry = checkpoint.get("data_registry")  # type: ignore[assignment]
    return model.eval().to(map_location)


class SafeLoading:
    """Mixin that replaces Lightning's ``load_from_checkpoint``, which would unpickle arbitrary objects."""

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, map_location: Any = "cpu", **kwargs: Any) -> Self:
        """Load a model of this class with the arguments of its checkpoint; see :func:`vaekit.load`.

        Lightning's other arguments may only have the values that apply here: ``strict=True``, ``weights_only=True``.

        Raises
        ------
        CheckpointError
            If the file is not a vaekit checkpoint, or contains another class.
        ConfigError
            If another argument is passed, which would be ignored.
        """
        accepted = {"hparams_file": (None,), "strict": (None, True), "weights_only": (None, True)}
        if rejected := {name: value for name, value in kwargs.items() if value not in accepted.get(name, ())}:
            raise ConfigError(
                f"load_from_checkpoint: {', '.join(f'{name}={value!r}' for name, value in rejected.items())} cannot be "
                "passed: a model is loaded with the arguments and weights of its checkpoint. To change arguments, "
                "build a model and call model.load_state_dict(vaekit.load(path).state_dict())."
            )
        return load_model(checkpoint_path, cls, map_location)  # type: ignore[type-var]
