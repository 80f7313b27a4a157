"""Files of an earlier run in a run directory, which a new run moves and never overwrites."""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path

from vaekit.callbacks.run_lock import LOCK
from vaekit.exceptions import ConfigError, reason

REPORT = "report.html"  # of vaekit report, written at the end of a run
SEEDS_TABLE = "seeds.csv"  # finished runs of `fit --seeds`
RUN_FILES = ("last.ckpt", "best.ckpt", "config.yaml", "figures", REPORT, "predictions.pt", "wandb", "lightning_logs",
             SEEDS_TABLE, "seed_[0-9]*")  # patterns  # fmt: skip
EVIDENCE = ("last.ckpt", "best.ckpt", SEEDS_TABLE, "seed_[0-9]*/*.ckpt", LOCK)  # patterns: only a run writes them


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
        raise ConfigError(f"{key}={str(directory)!r} cannot be created: {reason(error)}.") from error
    if not os.access(directory, os.W_OK):
        raise ConfigError(f"{key}={str(directory)!r} is not writable.")


def check_own_files(directory: Path, key: str) -> None:
    """Check that files with the names of those of a run are not the user's own, before a run moves them.

    A run leaves checkpoints or at least its lock. The check comes before the new run locks the directory.

    Parameters
    ----------
    directory : Path
        Run directory.
    key : str
        Key or argument that sets it, for the message.

    Raises
    ------
    ConfigError
        If there are such files, but nothing that only a run writes.
    """
    files = _run_files(directory)
    if files and not any(next(directory.glob(pattern), None) for pattern in EVIDENCE):
        names = ", ".join(path.name for path in files)
        raise ConfigError(
            f"{key}={str(directory)!r} contains {names}, but not a run: a new run would move these files. Choose "
            f"another directory, such as {str(directory / 'run')!r}, or rename them."
        )


def _run_files(directory: Path) -> list[Path]:
    return [path for pattern in RUN_FILES for path in sorted(directory.glob(pattern))]


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
    files = _run_files(directory)
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
