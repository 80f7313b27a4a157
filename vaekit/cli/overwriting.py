"""What a command may write over: what it is told to, and never what it reads."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from vaekit.exceptions import DataError

if TYPE_CHECKING:
    from vaekit.models import VAE


def check_output(output: Path, inputs: Iterable[str | None], overwrite: bool) -> None:
    """Raise an error if writing ``output`` would lose something, or cannot work; before any long work.

    Raises
    ------
    DataError
        If it is one of the inputs, exists, or its folder does not or cannot be written to.
    """
    refuse_inputs(output, inputs)
    if output.exists() and not overwrite:
        raise DataError(f"{output} exists: choose another name, or pass --overwrite")
    if not output.parent.is_dir():
        raise DataError(f"the folder {output.parent} of the output does not exist")
    if not os.access(output.parent, os.W_OK):
        raise DataError(f"the folder {output.parent} of the output cannot be written to")


def refuse_inputs(output: Path, inputs: Iterable[str | None]) -> None:
    """Raise an error if ``output`` is one of the inputs by whatever name, or lies in one that is a folder.

    Parameters
    ----------
    output
        The file to write.
    inputs
        Files, zarr stores and exported models; None, and those that are gone, do not count.

    Raises
    ------
    DataError
        If it is, or does: ``--overwrite`` is meant for what a command wrote before.
    """
    for path in (Path(name).expanduser() for name in inputs if name is not None):
        if not path.exists():
            continue
        if output.exists() and output.samefile(path):
            raise DataError(
                f"the output {output} is the input {path}: choose another name, what is read is never changed"
            )
        if path.is_dir() and path.resolve() in output.resolve().parents:
            raise DataError(
                f"the output {output} lies in the input {path}: choose another folder, what is read is never changed"
            )


def training_files(model: VAE) -> list[str]:
    """Return the files and folders that a model was trained on; none for packaged data, or data in memory."""
    path = ((model.reference or {}).get("config") or {}).get("init_args", {}).get("path")
    return [path] if isinstance(path, str) else list(path or ())
