"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from vaekit.exceptions import OutputError


@contextlib.contextmanager
def written(path: str | Path) -> Iterator[Path]:
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
    ...     with written(f"{folder}/a.txt") as temporary:
    ...         _ = temporary.write_text("whole")
    ...     (Path(folder) / "a.txt").read_text()
    'whole'
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch's and HDF5's writers turn some of the former into the latter
        raise OutputError(f"{path} could not be written: {error}; what was there before is as it was") from error
    finally:
        with contextlib.suppress(OSError):  # where nothing can be written, nothing can be removed
            temporary.unlink(missing_ok=True)


def remove_parts(folder: str | Path, pattern: str) -> None:
    """Remove the temporary files that a killed process has left beside files of a pattern, such as ``*.ckpt``."""
    for part in Path(folder).glob(f".{pattern}.*.part"):
        with contextlib.suppress(OSError):
            part.unlink()
