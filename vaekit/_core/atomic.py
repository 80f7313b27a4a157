"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import glob
import os
import traceback
from collections.abc import Iterator
from pathlib import Path

from vaekit.exceptions import OutputError

TRIAL = bytes(2**16)  # more than the rest of a block that a full disk may have left


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Give a temporary name beside ``path`` to write to; a block that ends well renames it to ``path``.

    A file of that name is replaced in one step, after the new one has reached the disk: whenever a program is stopped,
    one of the two is there whole. A block that fails, or is interrupted, leaves what was there before.

    Parameters
    ----------
    path
        File to write; its folder must exist.

    Raises
    ------
    OutputError
        If it cannot be written: for a full disk, a folder that does not exist or cannot be written to.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with atomic_write(f"{folder}/a.txt") as temporary:
    ...         _ = temporary.write_text("whole")
    ...     (Path(folder) / "a.txt").read_text()
    'whole'
    """
    path = Path(path)
    temporary = _temporary(path)
    remove_partial_files(path.parent, glob.escape(path.name))
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _of_a_writer(error):
            raise
        raise OutputError(f"{path} could not be written: {error}; what was there before is as it was") from error
    finally:
        with contextlib.suppress(OSError):  # where nothing can be written, nothing can be removed
            temporary.unlink(missing_ok=True)


def _of_a_writer(error: RuntimeError) -> bool:
    """Return whether torch's or HDF5's writer raised an error: they turn some errors of the system into a RuntimeError.

    Others, such as a want of GPU memory, may come from the work between two writings.
    """
    modules = (str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(module.startswith(("h5py.", "torch.serialization")) for module in modules)


def try_writing(path: Path) -> None:
    """Write a temporary file beside ``path`` and remove it.

    Raises
    ------
    OutputError
        If ``path`` is a directory, or writing fails: on a full or read-only disk, without permission, or for a name
        that is too long.
    """
    if path.is_dir():
        raise OutputError(f"{path} could not be written: it is a directory. Rename it, or choose another place.")
    temporary = _temporary(path)
    try:
        temporary.write_bytes(TRIAL)
    except OSError as error:
        raise OutputError(f"{path} could not be written: {error}. Choose another place, or free some space.") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def remove_partial_files(folder: str | Path, pattern: str = "*") -> None:
    """Remove the temporary files that killed processes have left beside files of a pattern, such as ``*.ckpt``.

    Those of processes that still run are kept. A pattern may name directories, too: ``figures/**/*``.
    """
    import psutil

    *parents, name = pattern.split("/")
    for part in Path(folder).glob("/".join([*parents, f".{name}.*.part"])):
        process = part.name.split(".")[-2]
        if process.isdecimal() and not psutil.pid_exists(int(process)):
            with contextlib.suppress(OSError):
                part.unlink()
