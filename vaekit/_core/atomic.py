"""Atomic writes: a file is replaced completely or not at all."""

from __future__ import annotations

import contextlib
import glob
import os
import traceback
from collections.abc import Iterator
from pathlib import Path

from vaekit.exceptions import OutputError, reason

_TRIAL_BYTES = bytes(2**16)  # larger than the unused rest of a block, which a full disk may still accept


@contextlib.contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary file path next to ``path``, and rename the file to ``path`` at the end of the block.

    An existing file is replaced in one step, after the new one has reached the disk: if the program stops at any time,
    one of the two is complete. If the block fails or is interrupted, the previous file is unchanged.

    Parameters
    ----------
    path : str or Path
        File to write. Its directory must exist.

    Raises
    ------
    OutputError
        If writing fails: the disk is full, or the directory does not exist or is not writable.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     with atomic_write(f"{directory}/a.txt") as temporary:
    ...         _ = temporary.write_text("complete", encoding="utf-8")
    ...     (Path(directory) / "a.txt").read_text(encoding="utf-8")
    'complete'
    """
    path = Path(path)
    temporary = _temporary_path(path)
    remove_partial_files(path.parent, glob.escape(path.name))
    try:
        yield temporary
        with temporary.open("r+b") as file:  # Windows flushes files that are open for writing only
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _is_write_error(error):
            raise
        raise OutputError(f"{path} could not be written: {reason(error)}. The previous file is unchanged.") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _is_write_error(error: RuntimeError) -> bool:
    """Return whether the writer of torch or HDF5 raised the error: these convert some OSErrors to RuntimeErrors."""
    modules = (str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(module.startswith(("h5py.", "torch.serialization")) for module in modules)


def try_writing(path: Path) -> None:
    """Write a temporary file next to ``path`` and remove it.

    Raises
    ------
    OutputError
        If ``path`` is a directory, or writing fails: on a full or read-only disk, without permission, or for a name
        that is too long.
    """
    if path.is_dir():
        raise OutputError(f"{path} could not be written: it is a directory. Rename it, or choose another path.")
    temporary = _temporary_path(path)
    try:
        temporary.write_bytes(_TRIAL_BYTES)
    except OSError as error:
        raise OutputError(
            f"{path} could not be written: {reason(error)}. Choose another path, or free some space."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _temporary_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def remove_partial_files(directory: str | Path, pattern: str = "*") -> None:
    """Remove the temporary files of killed processes for files that match ``pattern``, such as ``*.ckpt``.

    Files of running processes are kept. The pattern may include directories: ``figures/**/*``.
    """
    import psutil

    *parents, name = pattern.split("/")
    for file in Path(directory).glob("/".join([*parents, f".{name}.*.part"])):
        process = file.name.split(".")[-2]
        if process.isdecimal() and not psutil.pid_exists(int(process)):
            with contextlib.suppress(OSError):
                file.unlink()
