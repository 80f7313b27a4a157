"""Directory of a training run: the files of an earlier run in it are never overwritten."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from vaekit.callbacks.run_archive import check_own_files, make_directory
from vaekit.callbacks.run_lock import lock_run, may_be_first_process, unlock_run
from vaekit.exceptions import ConfigError, reason

CONCURRENT = "concurrent"  # subdirectory for runs that start while the directory is in use


def seed_directory(directory: Path, seed: int) -> Path:
    """Return the directory of one of several runs with consecutive seeds."""
    return directory / f"seed_{seed}"


def member_directory(directory: Path) -> Path:
    """Return the directory of a run: for a member of a Weights & Biases sweep, its own ``sweep-SWEEP/RUN`` in it.

    Agents of a sweep run the same command on several machines, which may share the directory.
    """
    sweep, run = os.environ.get("WANDB_SWEEP_ID"), os.environ.get("WANDB_RUN_ID")
    if not sweep or not run:
        return directory
    return directory / f"sweep-{Path(sweep).name}" / Path(run).name


def run_label(directory: Path) -> str:
    """Return the name of a run for loggers; a concurrent run or a seed is named by more than its number.

    Examples
    --------
    >>> run_label(Path("runs/digits")), run_label(Path("runs/digits/seed_1"))
    ('digits', 'digits seed_1')
    """
    if directory.parent.name == CONCURRENT:
        return " ".join(directory.parts[-3:])
    if re.fullmatch(r"seed_\d+", directory.name):
        return f"{run_label(directory.parent)} {directory.name}"
    return directory.name


@contextlib.contextmanager
def claimed(directory: str | Path | None) -> Iterator[Path | None]:
    """Hold the lock of the directory of a new run (:func:`claim`), and yield the directory; None needs no lock."""
    if directory is None or not may_be_first_process():
        yield None if directory is None else Path(directory).expanduser()
        return
    path, lock = claim(Path(directory).expanduser(), resumes=False, key="directory")
    try:
        yield path
    finally:
        unlock_run(lock)


def claim(directory: Path, resumes: bool, key: str = "trainer.default_root_dir") -> tuple[Path, FileLock]:
    """Create and lock the run directory, or ``concurrent/NUMBER`` in it if another run writes there.

    Parameters
    ----------
    directory : Path
        The directory; it may exist.
    resumes : bool
        Whether the run continues another one. It then never uses ``concurrent``.
    key : str
        Key or argument that sets the directory, for messages.

    Returns
    -------
    tuple
        The directory and its lock.

    Raises
    ------
    ConfigError
        If the directory cannot be created or written to, or has files of the same names that are not of a run, or if
        the run to resume is still in progress.
    """
    is_new = not directory.exists()
    make_directory(directory, key)
    check_own_files(directory, key)
    lock = lock_run(directory, is_new)
    if lock is not None:
        return directory, lock
    if resumes:
        raise ConfigError(
            f"{key}={str(directory)!r} is in use by another run. Wait until it has ended, or choose another directory."
        )
    for number in itertools.count(1):
        separate = directory / CONCURRENT / str(number)
        try:
            separate.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigError(f"{separate} cannot be created: {reason(error)}.") from error
        if (lock := lock_run(separate, is_new=True)) is not None:
            break
    assert lock is not None
    print(f"{directory} is in use by another run; this run uses {separate}", file=sys.stderr)
    return separate, lock
