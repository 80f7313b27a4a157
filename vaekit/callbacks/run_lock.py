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
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
OWNER = "VAEKIT_RUN_LOCK_OWNER"  # process whose workers write for it
RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK", "PMI_RANK",
         "OMPI_COMM_WORLD_RANK")  # fmt: skip
_made: set[Path] = set()  # directories that were not there before their runs


def lock_run(directory: str | Path, made: bool = False) -> FileLock | None:
    """Lock an existing run directory for this process.

    The operating system drops the lock when the process ends, however it ends. A process may lock a directory again.

    Parameters
    ----------
    directory
        The directory.
    made
        Whether it was made for this run, so that it is removed if nothing is written to it.

    Returns
    -------
    FileLock or None
        To be given to :func:`unlock_run`; None if another process has the directory.
    """
    path = Path(directory).resolve() / LOCK
    lock = FileLock(path, thread_local=False, is_singleton=True)
    parent = multiprocessing.parent_process()
    if parent is not None and os.environ.get(OWNER) == str(parent.pid):
        return lock  # a worker of the strategies ddp_spawn and ddp_fork, whose parent holds it
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in NO_LOCKS:
            raise
        rank_zero_warn(
            f"{directory} is on a file system without locks ({error}): a second run in this directory would not be "
            "noticed. Give each run a directory of its own."
        )
    os.environ[OWNER] = str(os.getpid())
    if made:
        _made.add(path.parent)
    return lock


def unlock_run(lock: FileLock) -> None:
    """Release a lock; a directory that was made for it, and to which nothing was written, is removed."""
    path = Path(lock.lock_file)
    if lock.is_locked and lock.lock_counter == 1:
        with contextlib.suppress(OSError):
            if [each.name for each in path.parent.iterdir()] == [LOCK]:
                path.unlink()
                if path.parent in _made:
                    path.parent.rmdir()
    lock.release()


def may_be_first_process() -> bool:
    """Return whether no launcher has said that this is another than the first process of a run."""
    return all(os.environ.get(name, "0") == "0" for name in RANKS)
