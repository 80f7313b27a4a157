"""The errors of vaekit: each names what is wrong, its value, and what would work."""

from __future__ import annotations

import math
from collections.abc import Iterable
from difflib import get_close_matches


class VaekitError(Exception):
    """Base of every error that vaekit raises on purpose."""


class EstimatorError(VaekitError, ValueError):
    """An estimator that cannot serve its node, or a cost that does not fit its graph."""


class DataError(VaekitError, ValueError):
    """A file, column, layer or value that cannot be used as data."""


class CheckpointError(VaekitError, ValueError):
    """A checkpoint that cannot be read, or does not fit what is asked of it."""


class ConfigError(VaekitError, ValueError):
    """A class, key or value of a configuration that cannot be used."""


class OutputError(DataError):
    """A file that cannot be written."""


class TrainingError(VaekitError, ArithmeticError):
    """A training that broke: its loss, gradient or weights are no longer finite."""


_MEMORY = ("allocate memory", "out of memory", "alloc_cpu", "storage size calculation overflowed")


def lacks_memory(error: BaseException) -> bool:
    """Return whether an error of Python, NumPy or torch says that memory, of the machine or of a GPU, is exhausted."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in _MEMORY)


def did_you_mean(name: str, valid: Iterable[str], listed: int = 12) -> str:
    """Return a hint that ends an error message: the nearest valid names, or all of them.

    Examples
    --------
    >>> nearest("cell_typ", ["cell_type", "batch"])
    "did you mean 'cell_type'?"
    >>> nearest("x", ["batch", "donor"])
    "available: 'batch', 'donor'"
    """
    names = [str(candidate) for candidate in valid]
    lowered = {candidate.lower(): candidate for candidate in names}
    close = get_close_matches(name.lower(), list(lowered), n=1, cutoff=0.6)
    if close:
        return f"did you mean {lowered[close[0]]!r}?"
    if not names:
        return "none is available"
    more = f" and {len(names) - listed} more" if len(names) > listed else ""
    return "available: " + ", ".join(repr(candidate) for candidate in names[:listed]) + more


def format_bytes(count: float) -> str:
    """Return a number of bytes in words.

    Examples
    --------
    >>> in_words(17), in_words(8_042_000)
    ('17 B', '8.0 MB')
    """
    units = ["B", "kB", "MB", "GB", "TB"]
    power = min(len(units) - 1, int(math.log10(max(count, 1)) // 3))
    return f"{count / 1000**power:.{min(power, 1)}f} {units[power]}"
