"""Compiled loops on torch's own threads.

On Linux torch runs its operations on the threads of GNU's OpenMP, which for a while after each operation wait at full
speed. Threads of any other pool would have to fight them for the cores, and gain nothing.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

TASK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def in_parts(work: Callable[[int, int], Any], count: int, smallest: int = 1) -> None:
    """Call ``work(first, last)`` on equal parts of ``range(count)``, side by side where torch's threads can be had.

    Parameters
    ----------
    work
        Of use side by side only if it frees Python's lock, as compiled loops do.
    count
        How many there are to be divided.
    smallest
        Least size of a part: smaller ones are not worth starting a thread.

    Examples
    --------
    >>> import numpy as np
    >>> squares = np.zeros(1000)
    >>> def fill(first, last):
    ...     squares[first:last] = np.arange(first, last) ** 2
    >>> in_parts(fill, 1000)
    >>> bool((squares == np.arange(1000) ** 2).all())
    True
    """
    parts = min(torch.get_num_threads(), count // max(smallest, 1))
    library = _openmp() if parts > 1 else None
    if library is None:
        work(0, count)
        return
    failures: list[BaseException] = []

    def task(_: Any) -> None:
        try:
            number, given = library.omp_get_thread_num(), library.omp_get_num_threads()
            work(count * number // given, count * (number + 1) // given)
        except BaseException as error:  # a callback from C cannot raise it; below it is
            failures.append(error)

    library.GOMP_parallel(TASK(task), None, parts, 0)
    if failures:
        raise failures[0]


@functools.cache
def _openmp() -> ctypes.CDLL | None:
    """Return the OpenMP library that torch brings along and runs on, if it is GNU's."""
    installed = Path(torch.__file__).parent
    found = [path for folder in (installed / "lib", Path(f"{installed}.libs")) for path in folder.glob("libgomp*.so*")]
    return ctypes.CDLL(str(found[0])) if len(found) == 1 else None
