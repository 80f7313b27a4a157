"""Export of trained models as safetensors and JSON: formats that cannot contain code, and that other programs read."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vaekit._core.atomic import atomic_write
from vaekit._core.urls import is_url
from vaekit._core.version import __version__
from vaekit.exceptions import CheckpointError, OutputError

TENSORS, DESCRIPTION = "model.safetensors", "model.json"
PATH_ARGUMENTS = ("path", "root")  # of the data modules
DIRECTORIES = re.compile(r"(?<!\S)/(?:[^/]*/)*(?=[^/]+$)")  # of a path in a text, before the name of the file
MODEL_KEYS = ("hyper_parameters", "data_registry", "state_dict")  # the others are for resuming a run


def export(checkpoint: Mapping[str, Any], directory: str | Path) -> Path:
    """Write the model of a checkpoint as ``model.safetensors`` and ``model.json``.

    The JSON file contains the arguments of the model and the data registry, with ``{"tensor": NAME}`` instead of each
    tensor; the weights have their names in ``state_dict``. Paths of the training data are reduced to the names of the
    files. :func:`vaekit.load` and the commands accept the directory like a checkpoint.

    Parameters
    ----------
    checkpoint : Mapping[str, Any]
        Result of :func:`vaekit.models.checkpoint.read_checkpoint`.
    directory : str or Path
        Output directory, which must be empty if it exists.

    Returns
    -------
    Path
        The directory.

    Raises
    ------
    OutputError
        If the directory is not empty, or cannot be written.
    CheckpointError
        If the checkpoint contains values that JSON cannot represent.
    """
    from safetensors.torch import save_file

    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise OutputError(f"the output {directory} exists. Choose another name, or an empty directory.")
    tensors: dict[str, Tensor] = {}
    contents = {**checkpoint, "data_registry": hide_data_directories(checkpoint.get("data_registry"))}
    plain = {key: _pack(contents.get(key), key, tensors) for key in MODEL_KEYS}
    content: dict[str, Any] = {"format": 1, "vaekit": __version__, **plain}
    created = not directory.exists()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the directory {directory} cannot be created: {error}") from error
    try:
        with atomic_write(directory / TENSORS) as file:
            try:
                save_file(tensors, file)
            except Exception as error:  # safetensors has one type for all failures of its writer
                raise OSError(str(error)) from error
        content["sha256"] = {TENSORS: _hash_file(directory / TENSORS)}
        content["sha256"][DESCRIPTION] = _hash_content(content)
        with atomic_write(directory / DESCRIPTION) as file:  # last: its presence marks a complete export
            file.write_text(json.dumps(content, indent=1, allow_nan=False), encoding="utf-8")
    except BaseException:
        if created:
            shutil.rmtree(directory, ignore_errors=True)
        raise
    return directory


def hide_data_directories(registry: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return a data registry without the directories of the training machine; names of files stay."""
    if registry is None:
        return None
    result = dict(registry)
    if "source" in result:
        result["source"] = DIRECTORIES.sub("", result["source"])
    if "mappings" in result:
        result["mappings"] = [
            {**mapping, "source": DIRECTORIES.sub("", mapping["source"])} for mapping in result["mappings"]
        ]
    if "config" in result:
        arguments = dict(result["config"]["init_args"])
        for name in PATH_ARGUMENTS:
            if isinstance(value := arguments.get(name), str):
                arguments[name] = _without_directory(value)
            elif value is not None:
                arguments[name] = [_without_directory(path) for path in value]
        result["config"] = {**result["config"], "init_args": arguments}
    return result


def _without_directory(path: str) -> str:
    """Return the name of a file; a URL, which is not of the training machine, stays."""
    return path if is_url(path) else Path(path).name


def is_exported(path: Path) -> bool:
    """Return whether a path is a directory that :func:`export` has written."""
    return path.is_dir() and (path / DESCRIPTION).is_file()


def read_exported(directory: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read an exported model in the form of a checkpoint.

    Raises
    ------
    CheckpointError
        If the files cannot be read, or do not belong together.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        content = json.loads((directory / DESCRIPTION).read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("format") != 1:
            raise ValueError(f"{DESCRIPTION} is not of format 1")
        _check_hashes(directory, content)
        tensors = load_file(directory / TENSORS, device=str(torch.device(map_location or "cpu")))
        return {key: _unpack(content[key], tensors) for key in MODEL_KEYS}
    except CheckpointError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise CheckpointError(
            f"{directory} cannot be read as an exported model: {type(error).__name__}: {error}"
        ) from error


def _check_hashes(directory: Path, content: dict[str, Any]) -> None:
    """Raise a CheckpointError if one of the files has changed since they were written together."""
    hashes = dict(content["sha256"])
    description_hash = hashes.pop(DESCRIPTION)
    if description_hash != _hash_content({**content, "sha256": hashes}):
        name, reason = DESCRIPTION, "is damaged or was edited"
    elif hashes[TENSORS] != _hash_file(directory / TENSORS):
        name, reason = TENSORS, f"is damaged, or belongs to another {DESCRIPTION}"
    else:
        return
    raise CheckpointError(
        f"{directory / name} {reason}: its contents differ from those that vaekit export wrote. Restore the directory "
        "from a copy, or export the checkpoint again."
    )


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_content(content: dict[str, Any]) -> str:
    """Return a hash that does not depend on the layout of the JSON file."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Return a value that JSON can represent, and add its tensors to ``tensors``."""
    if isinstance(value, Tensor):
        name = name.removeprefix("state_dict.")
        tensors[name] = value.detach().cpu().contiguous().clone()  # safetensors rejects shared memory
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {str(key): _pack(item, f"{name}.{key}", tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_pack(item, f"{name}.{i}", tensors) for i, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        return {"number": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise CheckpointError(f"{name} is a {type(value).__name__}, which JSON cannot represent")


def _unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"tensor"} and isinstance(value["tensor"], str):
            return tensors[value["tensor"]]
        if value.keys() == {"number"} and isinstance(value["number"], str):
            return float(value["number"])
        return {key: _unpack(item, tensors) for key, item in value.items()}
    return [_unpack(item, tensors) for item in value] if isinstance(value, list) else value
