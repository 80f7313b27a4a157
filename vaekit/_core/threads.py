"""Number of torch's threads, which the start of numba's thread pool changes for the whole process."""

from __future__ import annotations

import os

import torch

_initial_threads = torch.get_num_threads()
_is_kept = False


def keep_threads() -> str:
    """Start numba's pool without a change of torch's threads; return their number and its reason as a line.

    The pool starts at the first parallel loop of scanpy or another user of numba. If it has started before the first
    call of this function, the earlier number of torch's threads is restored.
    """
    global _is_kept
    import numba

    threads, reason = torch.get_num_threads(), "their number at its start"
    try:
        numba.threading_layer()
    except ValueError:  # the pool has not started
        numba.get_num_threads()
    else:
        environment = os.environ.get("OMP_NUM_THREADS", "")
        initial = int(environment) if environment.isdecimal() else _initial_threads
        if not _is_kept and threads == numba.get_num_threads() != initial:
            reason = f"their number before numba's pool (started by scanpy, for example) changed it to {threads}"
            threads = initial
    _is_kept = True
    torch.set_num_threads(threads)
    plural = "" if threads == 1 else "s"
    return f"training on {threads} thread{plural} of torch, {reason}; OMP_NUM_THREADS=N sets another number"
