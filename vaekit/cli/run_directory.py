"""Directory of a training run: the files of an earlier run in it are never overwritten."""

from __future__ import annotations

import itertools
import os
import re
import sys
from pathlib import Path

from filelock import FileLock

from vaekit.callbacks.run_lock import lock_run
from vaekit.exceptions import ConfigError

CONCURRENT = "concurrent"  # subdirectory for runs that start while the directory is in use
SEEDS_TABLE = "seeds.csv"  # finished runs of `fit --seeds`
RUN_FILES = ("last.ckpt", "best.ckpt", "config.yaml", "figures", "predictions.pt", "wandb", "lightning_logs",
             SEEDS_TABLE, "seed_[0-9]*")  # patterns  # fmt: skip


def seed_directory(directory: Path, seed: int) -> Path:
    """Return the directory of one of several runs with consecutive seeds."""
    return directory / f"seed_{seed}"


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


def make_directory(directory: Path, key: str = "trainer.default_root_dir") -> None:
    """Create a directory for output.

    Parameters
    ----------
    directory : Path
        The directory; it may exist.
    key : str
        Key or flag that sets it, for the message.

    Raises
    ------
    ConfigError
        If it cannot be created or written to.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{key}={str(directory)!r} cannot be created: {error}.") from error
    if not os.access(directory, os.W_OK):
        raise ConfigError(f"{key}={str(directory)!r} is not writable.")


def claim(directory: Path, resumes: bool) -> tuple[Path, FileLock]:
    """Create and lock the run directory, or ``concurrent/NUMBER`` in it if another run writes there.

    Returns
    -------
    tuple
        The directory and its lock.

    Raises
    ------
    ConfigError
        If the directory cannot be created or written to, or if the run to resume is still in progress.
    """
    is_new = not directory.exists()
    make_directory(directory)
    lock = lock_run(directory, is_new)
    if lock is not None:
        return directory, lock
    if resumes:
        raise ConfigError(
            f"trainer.default_root_dir={str(directory)!r} is in use by another run. Wait until it has ended, or choose "
            "another directory."
        )
    for number in itertools.count(1):
        separate = directory / CONCURRENT / str(number)
        try:
            separate.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigError(f"{separate} cannot be created: {error}.") from error
        if (lock := lock_run(separate, is_new=True)) is not None:
            break
    assert lock is not None
    print(f"{directory} is in use by another run; this run uses {separate}", file=sys.stderr)
    return separate, lock


def archive_previous_run(directory: Path) -> Path | None:
    """Create the directory, and move the files of an earlier run in it to ``earlier/NUMBER``.

    Returns
    -------
    Path or None
        The new directory of the earlier run, if there was one.

    Raises
    ------
    ConfigError
        If the directory cannot be created or written to.
    """
    make_directory(directory)
    files = [path for pattern in RUN_FILES for path in sorted(directory.glob(pattern))]
    if not files:
        return None
    number = next(n for n in itertools.count(1) if not (directory / "earlier" / str(n)).exists())
    archive = directory / "earlier" / str(number)
    archive.mkdir(parents=True)
    for path in files:
        path.rename(archive / path.name)
    return archive


def report_archive(directory: Path) -> None:
    """Archive the earlier run of a directory, and print where it is."""
    if (archive := archive_previous_run(directory)) is not None:
        print(f"Moved the earlier run in {directory} to {archive}", file=sys.stderr)
