"""Trained models as safetensors and JSON: two formats that can hold no code, and that other programs read."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import vaekit
from vaekit._core.atomic import atomic_write
from vaekit.exceptions import CheckpointError, OutputError

TENSORS, DESCRIPTION = "model.safetensors", "model.json"
KEPT = ("hyper_parameters", "data_registry", "state_dict")  # what a model needs; the rest is for training on


def export(checkpoint: Mapping[str, Any], folder: str | Path) -> Path:
    """Write the model of a checkpoint as ``model.safetensors`` and ``model.json``.

    The JSON holds the model's arguments and the names and split of its data, with ``{"tensor": NAME}`` in the place of
    each tensor; the weights are named as in ``state_dict``. :func:`vaekit.load` and the commands take the folder in the
    place of a checkpoint.

    Parameters
    ----------
    checkpoint
        From :func:`vaekit.models.checkpoint.read_checkpoint`.
    folder
        Where to write; it must not exist, or be empty.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    OutputError
        If there is something in the folder, or it cannot be written.
    CheckpointError
        If the checkpoint holds what JSON cannot.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"the output {folder} exists: choose another name, or an empty folder")
    tensors: dict[str, Tensor] = {}
    plain = {key: _packed(checkpoint.get(key), key, tensors) for key in KEPT}
    content: dict[str, Any] = {"format": 1, "vaekit": vaekit.__version__, **plain}
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the folder {folder} cannot be made: {error}") from error
    try:
        with atomic_write(folder / TENSORS) as file:
            try:
                save_file(tensors, file)
            except Exception as error:  # safetensors' own type for every failure of its writer
                raise OSError(str(error)) from error
        content["sha256"] = {TENSORS: _hash_file(folder / TENSORS)}
        content["sha256"][DESCRIPTION] = _hash_content(content)
        with atomic_write(folder / DESCRIPTION) as file:  # last: where it is, the export is whole
            file.write_text(json.dumps(content, indent=1, allow_nan=False))
    except BaseException:
        if made:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def is_exported(path: Path) -> bool:
    """Tell whether a path is a folder that :func:`export` has written."""
    return path.is_dir() and (path / DESCRIPTION).is_file()


def read_exported(folder: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Return what :func:`export` has written, in the form of a checkpoint.

    Raises
    ------
    CheckpointError
        If the files cannot be read, or do not fit together.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        content = json.loads((folder / DESCRIPTION).read_text())
        if not isinstance(content, dict) or content.get("format") != 1:
            raise ValueError(f"{DESCRIPTION} is not of format 1")
        _check_hashes(folder, content)
        tensors = load_file(folder / TENSORS, device=str(torch.device(map_location or "cpu")))
        return {key: _unpacked(content[key], tensors) for key in KEPT}
    except CheckpointError:  # a ValueError too
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise CheckpointError(
            f"{folder} cannot be read as a model that vaekit export wrote: {type(error).__name__}: {error}"
        ) from error


def _check_hashes(folder: Path, content: dict[str, Any]) -> None:
    """Raise a CheckpointError if one of the files has changed since they were written together."""
    hashes = dict(content["sha256"])
    own = hashes.pop(DESCRIPTION)
    if own != _hash_content({**content, "sha256": hashes}):
        changed, reason = DESCRIPTION, "is damaged or was edited: its contents have changed"
    elif hashes[TENSORS] != _hash_file(folder / TENSORS):
        changed, reason = TENSORS, f"is damaged, or belongs to another {DESCRIPTION}: its contents are not those"
    else:
        return
    raise CheckpointError(
        f"{folder / changed} {reason} that vaekit export wrote. Restore the folder from a copy, or export the "
        "checkpoint again"
    )


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_content(content: dict[str, Any]) -> str:
    """Return the hash of what the description says, however it is laid out."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _packed(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Return what JSON can hold, with each tensor put into ``tensors`` under its place."""
    if isinstance(value, Tensor):
        name = name.removeprefix("state_dict.")
        tensors[name] = value.detach().cpu().contiguous().clone()  # safetensors refuses memory that is shared
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {str(key): _packed(item, f"{name}.{key}", tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_packed(item, f"{name}.{i}", tensors) for i, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        return {"number": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise CheckpointError(f"{name} is a {type(value).__name__}, which JSON cannot hold")


def _unpacked(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"tensor"} and isinstance(value["tensor"], str):
            return tensors[value["tensor"]]
        if value.keys() == {"number"} and isinstance(value["number"], str):
            return float(value["number"])
        return {key: _unpacked(item, tensors) for key, item in value.items()}
    return [_unpacked(item, tensors) for item in value] if isinstance(value, list) else value
