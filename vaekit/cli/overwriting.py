"""What a command may write over: what it is told to, and never what it reads."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from vaekit._core.atomic import try_writing
from vaekit.exceptions import DataError

if TYPE_CHECKING:
    from vaekit.models import VAE


def check_output(output: Path, inputs: Iterable[str | None], overwrite: bool) -> None:
    """Raise an error if writing ``output`` would lose something, or cannot work; before any long work.

    Raises
    ------
    DataError
        If it is one of the inputs, exists, is not a file, or its directory does not exist.
    OutputError
        If no file can be written there.
    """
    refuse_inputs(output, inputs, directory=overwrite)  # the training data, known later, may be one
    if output.suffix == ".zarr" and not output.is_dir():
        raise DataError(f"the output {output} is a file, not a zarr store: name it with the ending .h5ad")
    if os.path.lexists(output):
        if output.exists() and not output.is_file() and not output.is_dir():
            raise DataError(f"the output {output} is not a regular file: choose another name")
        if not overwrite:
            raise DataError(f"{output} exists: choose another name, or pass --overwrite")
        if output.exists() and not output.stat().st_mode & 0o222:
            raise DataError(f"{output} is read-only: choose another name, or make it writable (chmod u+w {output})")
    if not output.parent.is_dir():
        raise DataError(f"the folder {output.parent} of the output does not exist")
    if not output.is_dir():  # rejected once the training data are known, which it may be
        try_writing(output)  # what fails here would have failed after the work


def refuse_inputs(output: Path, inputs: Iterable[str | None], directory: bool = False) -> None:
    """Raise an error if ``output`` is one of the inputs by whatever name, or lies in one that is a folder.

    Parameters
    ----------
    output
        The file to write.
    inputs
        Files, zarr stores and exported models; None, and those that are gone, do not count.
    directory
        Whether ``output`` may be another directory.

    Raises
    ------
    DataError
        If it is, or does: ``--overwrite`` is meant for what a command wrote before. Or if it is any directory.
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
    if output.is_dir() and not directory:
        raise DataError(f"the output {output} is a directory: name a file in it")


def training_files(model: VAE) -> list[str]:
    """Return the files and folders that a model was trained on; none for packaged data, or data in memory."""
    from vaekit.data.cells.sources import local_paths

    path = ((model.data_registry or {}).get("config") or {}).get("init_args", {}).get("path")
    return [] if path is None else local_paths(path)
