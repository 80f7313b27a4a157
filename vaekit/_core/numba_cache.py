"""Decorator of compiled CPU loops, which read the memory once; NumPy and torch read it once per operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def cached_njit(**options: Any) -> Callable[[Any], Any]:
    """Return numba's decorator with the settings of all loops of vaekit.

    Loops release the GIL. They return inf or NaN for a division by zero, as NumPy does, because a check would prevent
    vectorization. They are cached on disk, because the first compilation on a machine takes some ten seconds.
    """
    settings: Any = {"nogil": True, "error_model": "numpy", **options}

    def decorate(function: Any) -> Any:
        try:
            return numba.njit(cache=True, **settings)(function)
        except RuntimeError:  # neither the package's directory nor the user's cache is writable
            return numba.njit(**settings)(function)

    return decorate
