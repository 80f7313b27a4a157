"""Checks of arguments against their annotations: None, infinity or a list instead of a number is an error."""

from __future__ import annotations

import functools
import math
import numbers
import operator
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vaekit.exceptions import ConfigError

MAX_INTEGER = 2**63 - 1  # torch and NumPy use int64
MAX_SEED = 2**32 - 1  # the limit of NumPy and Lightning


def check_arguments(function: Callable[..., Any], arguments: Mapping[str, Any], owner: str) -> None:
    """Check that numbers are finite, and that None is given only if it is allowed.

    Parameters
    ----------
    function : Callable
        Function or constructor with annotations. Arguments without an annotation are not checked.
    arguments : Mapping[str, Any]
        Values by name.
    owner : str
        Prefix of the names in messages, such as ``"GaussianVAE: "`` or ``"trainer."``.

    Raises
    ------
    ConfigError
        If an argument has another type than its annotation, is not finite, or does not fit into 64 bits.

    Examples
    --------
    >>> def train(rate: float, hidden: list[int], name: str | None = None) -> None: ...
    >>> check_arguments(train, {"rate": 1, "hidden": [3, None]}, "train: ")
    Traceback (most recent call last):
        ...
    vaekit.exceptions.ConfigError: train: hidden[1]=None must be an integer.
    """
    hints = type_hints(function)
    for name, value in arguments.items():
        if name in hints:
            _check(value, hints[name], f"{owner}{name}")


@functools.lru_cache(maxsize=512)
def type_hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of a function; none if they name classes that are imported for type checkers only."""
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError):
        return {}


def _check(value: Any, hint: Any, name: str) -> None:
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    if any(option in (Any, object) or isinstance(option, typing.TypeVar) for option in options):
        return
    if value is None:
        if types.NoneType not in options:
            raise ConfigError(f"{name}=None must be {_describe(options)}.")
        return
    number_types = {option for option in options if option in (int, float)}
    accepts_others = len(number_types) < len(options)
    if number_types and isinstance(value, numbers.Real) and not (isinstance(value, bool) and accepts_others):
        _check_number(value, number_types, name)
        return
    others = [option for option in options if option not in (int, float, types.NoneType)]
    if number_types and not others and not isinstance(value, typing.SupportsFloat):
        raise ConfigError(f"{name}={short_repr(value)} must be {_describe(options)}.")
    if others and not number_types and isinstance(value, numbers.Real) and all(map(_is_sequence, others)):
        raise ConfigError(f"{name}={short_repr(value)} must be a list.")
    item_types = next((typing.get_args(option) for option in others if _is_sequence(option)), ())
    if isinstance(value, list | tuple) and item_types:
        for i, item in enumerate(value):
            _check(item, item_types[min(i, len(item_types) - 1) if item_types[-1] is not ... else 0], f"{name}[{i}]")


def _check_number(value: Any, number_types: set[Any], name: str) -> None:
    is_integer = isinstance(value, numbers.Integral)
    if isinstance(value, bool) or (float not in number_types and not is_integer):
        raise ConfigError(f"{name}={short_repr(value)} must be {_describe(number_types)}.")
    if is_integer and abs(int(value)) > MAX_INTEGER:
        raise ConfigError(f"{name}={value} must not exceed {MAX_INTEGER}.")
    if not is_integer and not math.isfinite(value):
        raise ConfigError(f"{name}={value} must be finite.")


def as_integer(value: Any) -> int | None:
    """Return an integer of Python or NumPy as an int; None if the value is another one, such as True or 2.0.

    Examples
    --------
    >>> import numpy as np
    >>> as_integer(np.int64(3)), as_integer(True), as_integer(3.0)
    (3, None, None)
    """
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def check_count(**values: Any) -> None:
    """Check that numbers, unless None, are positive whole numbers.

    Raises
    ------
    ConfigError
        If one is not.
    """
    for name, value in values.items():
        if value is not None and (as_integer(value) or 0) < 1:
            raise ConfigError(f"{name}={short_repr(value)} must be a whole number, at least 1.")


def check_minimum(minimum: float, **values: float | None) -> None:
    """Check that numbers, unless None, are at least a minimum.

    Raises
    ------
    ConfigError
        If one is smaller.
    """
    for name, value in values.items():
        if value is not None and not value >= minimum:
            raise ConfigError(f"{name}={value} must be at least {minimum}.")


def check_seed(seed: Any, name: str = "seed") -> int:
    """Return a seed as an int.

    Raises
    ------
    ConfigError
        If it is not an integer that NumPy accepts.
    """
    number = as_integer(seed)
    if number is None or not 0 <= number <= MAX_SEED:
        raise ConfigError(f"{name}={seed!r} must be a whole number from 0 to {MAX_SEED}.")
    return number


def short_repr(value: Any) -> str:
    """Return the representation of a value in a message: its type if it is long.

    Examples
    --------
    >>> short_repr("nb"), short_repr(list(range(100)))
    ("'nb'", 'list object')
    """
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{type(value).__name__} object"


def _is_sequence(hint: Any) -> bool:
    return typing.get_origin(hint) in (list, tuple, Sequence)


def _describe(options: typing.Collection[Any]) -> str:
    """Return a description of the allowed values for an error message."""
    if float in options:
        return "a number"
    return "an integer" if int in options else "given. Omit it to use the default"
