"""The folder of a training run: nothing that an earlier run left there is overwritten."""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path

from filelock import FileLock

from vaekit.callbacks.run_lock import lock_run
from vaekit.exceptions import ConfigError

CONCURRENT = "concurrent"  # folder of the runs that found the folder in use
OWN = ("last.ckpt", "best.ckpt", "config.yaml", "figures", "predictions.pt", "wandb", "lightning_logs")


def run_label(folder: Path) -> str:
    """Return the name by which loggers know the run in a folder: a number alone would say nothing."""
    return " ".join(folder.parts[-3:]) if folder.parent.name == CONCURRENT else folder.name


def make_folder(folder: Path, setting: str = "trainer.default_root_dir") -> None:
    """Make a folder to write to.

    Parameters
    ----------
    folder
        The folder; that of a run, if nothing else is said.
    setting
        What says where it is.

    Raises
    ------
    ConfigError
        If it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the folder {folder} ({setting}) cannot be made: {error}") from error
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"the folder {folder} ({setting}) cannot be written to")


def claim(folder: Path, resumes: bool) -> tuple[Path, FileLock]:
    """Make the run directory and lock it, or one of its own in ``concurrent/NUMBER`` if another run writes there.

    Returns
    -------
    tuple
        The directory and its lock.

    Raises
    ------
    ConfigError
        If the directory cannot be made or written to, or the run that is to be resumed is still training.
    """
    made = not folder.exists()
    make_folder(folder)
    lock = lock_run(folder, made)
    if lock is not None:
        return folder, lock
    if resumes:
        raise ConfigError(
            f"trainer.default_root_dir={str(folder)!r} is in use by another run. Wait until that has ended, or choose "
            "another directory."
        )
    for number in itertools.count(1):
        own = folder / CONCURRENT / str(number)
        try:
            own.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigError(f"the folder {own} cannot be made: {error}") from error
        lock = lock_run(own, is_new=True)
        if lock is not None:
            break
    assert lock is not None
    print(f"{folder} is in use by another run; this one is in {own}", file=sys.stderr)
    return own, lock


def archive_previous_run(folder: Path) -> Path | None:
    """Make the folder, and move an earlier run in it aside to ``earlier/NUMBER``.

    Returns
    -------
    Path or None
        Where the earlier run is now.

    Raises
    ------
    ConfigError
        If the folder cannot be made or written to.
    """
    make_folder(folder)
    found = [folder / name for name in OWN if (folder / name).exists()]
    if not found:
        return None
    number = 1
    while (folder / "earlier" / str(number)).exists():
        number += 1
    aside = folder / "earlier" / str(number)
    aside.mkdir(parents=True)
    for path in found:
        path.rename(aside / path.name)
    return aside
