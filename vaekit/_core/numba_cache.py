"""Decorator of compiled CPU loops, which read the memory once; NumPy and torch read it once per operation."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numba
from numba.core import event as numba_events
from typing_extensions import override


class _Announcement(numba_events.Listener):
    """Line on standard error when the first loop of vaekit is compiled, because the program seems to hang then."""

    is_made = False

    @override
    def on_start(self, event: Any) -> None:
        if not self.is_made and event.data["dispatcher"].py_func.__module__.startswith("vaekit."):
            self.is_made = True
            print("vaekit: compiling its loops for this machine, once; this takes some ten seconds", file=sys.stderr)

    @override
    def on_end(self, event: Any) -> None:
        pass


numba_events.register("numba:compile", _Announcement())


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
