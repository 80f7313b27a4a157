"""Number of torch's threads: who chose it, and its change by the start of numba's thread pool.

The command line starts with one thread: those of models this small wait for each other, and on busy cores a second one
makes a step ten times slower. Long training measures whether more of them are faster
(:class:`vaekit.models.step_times.StepTimes`).
"""

from __future__ import annotations

import os

import torch

from vaekit._core import process

available_threads = torch.get_num_threads()  # one per core, or OMP_NUM_THREADS
if process.is_command_line and not os.environ.get("OMP_NUM_THREADS"):
    torch.set_num_threads(1)
_initial_threads = _measured_threads = torch.get_num_threads()
_is_kept = False


def keep_threads() -> str:
    """Start numba's pool without a change of torch's threads; return the reason for their number.

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
    return reason


def is_chosen_by_user() -> bool:
    """Return whether the user set the number of threads, by ``OMP_NUM_THREADS`` or ``torch.set_num_threads``."""
    ours = (_initial_threads, _measured_threads)
    return bool(os.environ.get("OMP_NUM_THREADS")) or torch.get_num_threads() not in ours


def set_threads(threads: int) -> None:
    """Set a number of threads that was measured, not chosen by the user."""
    global _measured_threads
    _measured_threads = threads
    torch.set_num_threads(threads)


def describe_threads(threads: int, reason: str) -> str:
    """Return the number of threads as a line, with its reason and how to change it."""
    plural = "" if threads == 1 else "s"
    return f"training on {threads} thread{plural} of torch, {reason}; OMP_NUM_THREADS=N sets another number"
