"""Errors of vaekit and the parts of their messages: each states the problem, the value and a remedy."""

from __future__ import annotations

import math
from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "EstimatorError",
    "MissingPackageError",
    "OutputError",
    "TrainingError",
    "VaekitError",
]


class VaekitError(Exception):
    """Base class of every error that vaekit raises on purpose.

    Examples
    --------
    >>> import vaekit
    >>> try:
    ...     vaekit.networks.MLP([32, 0])
    ... except vaekit.VaekitError as error:
    ...     print(error)
    MLP: hidden=[32, 0] must contain one positive width per layer.
    """


class EstimatorError(VaekitError, ValueError):
    """Estimator that does not support its node, or cost that does not fit its graph.

    Examples
    --------
    >>> import vaekit
    >>> vaekit.estimators.ScoreFunction(num_samples=0)
    Traceback (most recent call last):
    ...
    vaekit.exceptions.EstimatorError: ScoreFunction: num_samples=0 must be at least 1.
    """


class DataError(VaekitError, ValueError):
    """File, column, layer or value that cannot be used as data.

    Examples
    --------
    >>> import vaekit
    >>> vaekit.data.ImageData("letters").setup()
    Traceback (most recent call last):
    ...
    vaekit.exceptions.DataError: name='letters' is unknown. Available: 'digits', 'mnist', 'fashion_mnist'.
    """


class CheckpointError(VaekitError, ValueError):
    """Checkpoint that cannot be read, or does not fit its use.

    Examples
    --------
    >>> import vaekit
    >>> try:
    ...     vaekit.load("missing.ckpt")
    ... except vaekit.exceptions.CheckpointError as error:
    ...     print("missing.ckpt" in str(error))
    True
    """


class ConfigError(VaekitError, ValueError):
    """Class, key or value of a configuration that cannot be used.

    Examples
    --------
    >>> import vaekit
    >>> vaekit.networks.MLP([32], dropout=2.0)
    Traceback (most recent call last):
    ...
    vaekit.exceptions.ConfigError: MLP: dropout=2.0 must be in [0, 1).
    """


class OutputError(DataError):
    """File that cannot be written.

    Examples
    --------
    >>> import vaekit
    >>> try:
    ...     vaekit.save(model, "no/such/directory/model.ckpt")
    ... except vaekit.exceptions.OutputError as error:
    ...     print("no/such/directory" in str(error))
    True
    """


class MissingPackageError(VaekitError, ImportError):
    """Optional package that is not installed.

    Examples
    --------
    >>> import vaekit
    >>> issubclass(vaekit.exceptions.MissingPackageError, vaekit.VaekitError)
    True
    """


class TrainingError(VaekitError, ArithmeticError):
    """Run whose loss, gradient or weights are no longer finite.

    Examples
    --------
    The callback :class:`vaekit.callbacks.TerminateOnNonFinite` raises it:

    >>> import vaekit
    >>> issubclass(vaekit.exceptions.TrainingError, vaekit.VaekitError)
    True
    """


_MEMORY_MESSAGES = ("allocate memory", "out of memory", "alloc_cpu", "storage size calculation overflowed")


def reason(error: BaseException) -> str:
    """Return the message of an error without its final period, for the middle of another message."""
    return str(error).rstrip(". ")


def lacks_memory(error: BaseException) -> bool:
    """Return whether an error of Python, NumPy or torch reports exhausted memory, of the machine or of a GPU.

    Examples
    --------
    >>> lacks_memory(MemoryError()), lacks_memory(ValueError("shape"))
    (True, False)
    """
    return isinstance(error, MemoryError) or any(message in str(error).lower() for message in _MEMORY_MESSAGES)


def did_you_mean(name: str, valid: Iterable[str], limit: int = 12) -> str:
    """Return a sentence for the end of an error message: the nearest valid name, or else the first ``limit`` names.

    Examples
    --------
    >>> did_you_mean("cell_typ", ["cell_type", "batch"])
    "Did you mean 'cell_type'?"
    >>> did_you_mean("x", ["batch", "donor"])
    "Available: 'batch', 'donor'."
    """
    names = [str(candidate) for candidate in valid]
    by_lowercase = {candidate.lower(): candidate for candidate in names}
    if close := get_close_matches(name.lower(), list(by_lowercase), n=1, cutoff=0.6):
        return f"Did you mean {by_lowercase[close[0]]!r}?"
    if not names:
        return "None is available."
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"Available: {', '.join(map(repr, names[:limit]))}{more}."


def format_bytes(count: float) -> str:
    """Return a number of bytes with its unit.

    Examples
    --------
    >>> format_bytes(17), format_bytes(8_042_000)
    ('17 B', '8.0 MB')
    """
    units = ["B", "kB", "MB", "GB", "TB"]
    power = min(len(units) - 1, int(math.log10(max(count, 1)) // 3))
    return f"{count / 1000**power:.{min(power, 1)}f} {units[power]}"
