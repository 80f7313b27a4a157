"""The number of torch's threads, which numba's pool of threads changes at its start."""

from __future__ import annotations

import os

import torch

AT_IMPORT = torch.get_num_threads()
_settled = False


def keep_threads() -> str:
    """Start numba's pool without a change of torch's number of threads; return that number and the reason in a line.

    By its start, at the first parallel loop of scanpy or another user of numba, the pool sets the number of OpenMP's
    threads and so that of torch's, for the whole process; later it changes nothing. If it was started before the first
    call, and torch's number is the pool's, the number of before is restored.
    """
    global _settled
    import numba

    number, reason = torch.get_num_threads(), "their number at its start"
    try:
        numba.threading_layer()
    except ValueError:  # not started yet
        numba.get_num_threads()
    else:
        given = os.environ.get("OMP_NUM_THREADS", "")
        before = int(given) if given.isdecimal() else AT_IMPORT
        if not _settled and number == numba.get_num_threads() != before:
            reason = f"their number before numba's pool (started by scanpy, for example) changed it to {number}"
            number = before
    _settled = True
    torch.set_num_threads(number)
    plural = "" if number == 1 else "s"
    return f"training on {number} thread{plural} of torch, {reason}; OMP_NUM_THREADS=N sets another one"
