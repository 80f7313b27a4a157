"""Lock of a run directory: one run at a time writes to it."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
from pathlib import Path

from filelock import FileLock, Timeout
from pytorch_lightning.utilities import rank_zero_warn

LOCK = ".lock"
UNSUPPORTED_ERRORS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
OWNER_VARIABLE = "VAEKIT_RUN_LOCK_OWNER"  # process whose workers may write, too
RANK_VARIABLES = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK", "PMI_RANK",
                  "OMPI_COMM_WORLD_RANK")  # fmt: skip
_new_directories: set[Path] = set()


def lock_run(directory: str | Path, is_new: bool = False) -> FileLock | None:
    """Lock an existing run directory for this process.

    The operating system releases the lock when the process ends, even if it is killed. A process may lock a directory
    repeatedly.

    Parameters
    ----------
    directory : path
        The run directory.
    is_new : bool
        Whether the directory was created for this run. It is then removed if it stays empty.

    Returns
    -------
    FileLock or None
        Argument of :func:`unlock_run`; None if another process has locked the directory.
    """
    path = Path(directory).resolve() / LOCK
    lock = FileLock(path, thread_local=False, is_singleton=True)
    parent = multiprocessing.parent_process()
    if parent is not None and os.environ.get(OWNER_VARIABLE) == str(parent.pid):
        return lock  # a worker of the strategies ddp_spawn and ddp_fork, whose parent holds the lock
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in UNSUPPORTED_ERRORS:
            raise
        rank_zero_warn(
            f"{directory} is on a file system without locks ({error}), so that a second run in this directory cannot "
            "be detected. Use a separate directory for each run."
        )
    os.environ[OWNER_VARIABLE] = str(os.getpid())
    if is_new:
        _new_directories.add(path.parent)
    return lock


def unlock_run(lock: FileLock) -> None:
    """Release a lock, and remove a directory that was created for the run and is empty."""
    path = Path(lock.lock_file)
    if lock.is_locked and lock.lock_counter == 1:
        with contextlib.suppress(OSError):
            if [each.name for each in path.parent.iterdir()] == [LOCK]:
                path.unlink()
                if path.parent in _new_directories:
                    path.parent.rmdir()
    lock.release()


def may_be_first_process() -> bool:
    """Return whether this can be the first process of a run, according to the variables of launchers."""
    return all(os.environ.get(name, "0") == "0" for name in RANK_VARIABLES)
