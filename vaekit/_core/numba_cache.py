"""Loops compiled by numba, on the CPU: where NumPy and torch would go through memory once for each operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def cached_njit(**options: Any) -> Callable[[Any], Any]:
    """Return numba's decorator with the settings of all our loops.

    They hold no lock, divide by zero as NumPy does (a check would keep the compiler from using vectors), and are kept
    on disk: the first use on a machine takes some ten seconds, another process none.
    """

    def decorate(function: Any) -> Any:
        settings: Any = {"nogil": True, "error_model": "numpy", **options}
        try:
            return numba.njit(cache=True, **settings)(function)
        except RuntimeError:  # neither the package's folder nor the user's cache can be written
            return numba.njit(**settings)(function)

    return decorate
