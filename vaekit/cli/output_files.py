"""Output files of the commands: an input is never overwritten, and another file only on request."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vaekit._core.atomic import try_writing
from vaekit._core.figure_formats import FIGURE_FORMATS, FigureFormat
from vaekit._core.urls import hide_credentials, is_url
from vaekit.exceptions import CheckpointError, DataError

if TYPE_CHECKING:
    from vaekit.models import VAE

PathLike = str | Path


class OutputFiles(NamedTuple):
    """Files that a command writes: its result, and a figure with the same name, or None."""

    result: Path
    figure: Path | None


def check_outputs(
    output: PathLike,
    endings: Sequence[str],
    inputs: Iterable[PathLike | None],
    overwrite: bool,
    figure: FigureFormat = "png",
) -> OutputFiles:
    """Return the files that a command writes, after the checks of :func:`check_output`.

    Parameters
    ----------
    output : str or Path
        File of the result. Its ending determines the format.
    endings : sequence of str
        Endings of the formats that the command can write.
    inputs : iterable of paths or None
        Files that must not be overwritten. None is ignored.
    overwrite : bool
        Whether existing files are replaced.
    figure : str
        Format of the figure; "none" means no figure.

    Raises
    ------
    DataError
        If the ending or format is another one, or a file cannot be written without losing another.
    """
    if is_url(str(output)):
        raise DataError(f"output={hide_credentials(str(output))!r} is a URL. Name a file on this machine.")
    result, inputs = Path(output), list(inputs)
    if result.suffix.lower() not in endings and not result.is_dir():
        formats = " or ".join(endings)
        raise DataError(
            f"output={str(result)!r} must end in {formats}: the ending determines the format. A figure with the same "
            f"name gets the ending .{figure}. Name it {result.stem or 'result'}{endings[0]}."
        )
    if figure not in FIGURE_FORMATS:
        raise DataError(f"figure={figure!r} must be one of {', '.join(map(repr, FIGURE_FORMATS))}.")
    files = OutputFiles(result, None if figure == "none" else result.parent / f"{result.stem}.{figure}")
    for file in filter(None, files):
        check_output(file, inputs, overwrite)
    return files


def check_output(output: Path, inputs: Iterable[PathLike | None], overwrite: bool) -> None:
    """Check, before any long work, that a file can be written without losing another.

    Raises
    ------
    DataError
        If it is one of the inputs, exists, is not a regular file, or its directory does not exist.
    OutputError
        If no file can be written there.
    """
    reject_inputs(output, inputs, allow_directory=overwrite)  # the training data, not known yet, may be a directory
    if os.path.lexists(output):
        if output.exists() and not output.is_file() and not output.is_dir():
            raise DataError(f"output={str(output)!r} is not a regular file. Choose another name.")
        if not overwrite:
            raise DataError(f"{output} exists. Choose another name, or pass --overwrite")
        if output.exists() and not output.stat().st_mode & 0o222:
            raise DataError(f"{output} is read-only. Choose another name, or make it writable: chmod u+w {output}")
    if not output.parent.is_dir():
        raise DataError(f"output={str(output)!r}: the directory {output.parent} does not exist. Create it first.")
    if not output.is_dir():
        try_writing(output)


def reject_inputs(output: Path, inputs: Iterable[PathLike | None], allow_directory: bool = False) -> None:
    """Raise an error if ``output`` is one of the inputs by any name, or lies in an input that is a directory.

    Parameters
    ----------
    output : Path
        The file to write.
    inputs : iterable of paths or None
        Files, zarr stores and exported models. None and paths that do not exist are ignored.
    allow_directory : bool
        Whether ``output`` may be another directory.

    Raises
    ------
    DataError
        If it is or does so, even with ``--overwrite``, or if it is a directory.
    """
    for path in (Path(name).expanduser() for name in inputs if name is not None):
        if not path.exists():
            continue
        if output.exists() and output.samefile(path):
            raise DataError(
                f"output={str(output)!r} is the input {path}. Inputs are never changed: choose another name."
            )
        if path.is_dir() and path.resolve() in output.resolve().parents:
            raise DataError(
                f"output={str(output)!r} lies in the input {path}. Inputs are never changed: choose another directory."
            )
    if output.is_dir() and not allow_directory:
        raise DataError(f"output={str(output)!r} is a directory. Name a file in it.")


def load_model(checkpoint: PathLike, *outputs: Path) -> VAE:
    """Load a model, and check that no output is its checkpoint or a file that it was trained on.

    Raises
    ------
    CheckpointError
        If the checkpoint cannot be read.
    DataError
        If an output is one of these, or lies in one that is a directory.
    """
    from vaekit.data.cells.stores import absolute_paths
    from vaekit.models import load

    for output in outputs:
        reject_inputs(output, (checkpoint,), allow_directory=True)  # may be the training data, checked below
    model = load(checkpoint)
    path = ((model.data_registry or {}).get("config") or {}).get("init_args", {}).get("path")
    for output in outputs:
        reject_inputs(output, [] if path is None else absolute_paths(path))
    return model


def image_shape(model: VAE, checkpoint: PathLike) -> tuple[int, ...]:
    """Return the channels, height and width of the images that a model was trained on.

    Raises
    ------
    CheckpointError
        If it was not trained on images.
    """
    shape = (model.data_registry or {}).get("image_shape")
    if shape is None:
        raise CheckpointError(f"{checkpoint} was not trained on images. Pass the checkpoint of a model of images.")
    return tuple(shape)


def figure_path(output: PathLike | None, overwrite: bool, directory: Path, stem: str) -> Path:
    """Return the path of a figure: the output, or else a free name in a directory.

    Raises
    ------
    DataError
        If the output does not end in .png, or writing it would lose a file.
    """
    if output is None:
        for number in itertools.count(1):
            path = directory / (f"{stem}.png" if number == 1 else f"{stem}-{number}.png")
            if overwrite or not any(path.with_suffix(ending).exists() for ending in (".png", ".csv")):
                break
    else:
        path = Path(output)
        if path.suffix.lower() != ".png":
            raise DataError(f"output={str(path)!r} must end in .png.")
    check_output(path, (), overwrite)
    return path
