"""Checks of arguments against their annotations: None, infinity or a list for a number is an error by name."""

from __future__ import annotations

import functools
import math
import numbers
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vaekit.exceptions import ConfigError

LARGEST = 2**63 - 1  # an int64, which torch and NumPy count in


def check_arguments(function: Callable[..., Any], arguments: Mapping[str, Any], owner: str) -> None:
    """Check the arguments that are annotated as numbers, and that None is given only where it is allowed.

    Parameters
    ----------
    function
        Function or constructor with annotations; arguments without one are not checked.
    arguments
        Values by name.
    owner
        Prefix of the names in the message, such as ``"GaussianVAE: "`` or ``"trainer."``.

    Raises
    ------
    ConfigError
        If an argument is not such a number, not finite, or does not fit into 64 bits.

    Examples
    --------
    >>> def train(rate: float, hidden: list[int], name: str | None = None) -> None: ...
    >>> check_arguments(train, {"rate": 1, "hidden": [3, None]}, "train: ")
    Traceback (most recent call last):
        ...
    vaekit.exceptions.ConfigError: train: hidden[1]=None must be an integer.
    """
    hints = _hints(function)
    for name, value in arguments.items():
        if name in hints:
            _check(value, hints[name], f"{owner}{name}")


@functools.lru_cache(maxsize=512)
def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError):  # of names that are imported for a type checker only
        return {}


def _check(value: Any, hint: Any, name: str) -> None:
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    if any(option in (Any, object) or isinstance(option, typing.TypeVar) for option in options):
        return
    if value is None:
        if type(None) not in options:
            raise ConfigError(f"{name}=None must be {_wanted(options)}.")
        return
    scalars = {option for option in options if option in (int, float)}
    if scalars and isinstance(value, numbers.Real) and (not isinstance(value, bool) or len(scalars) == len(options)):
        whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        if (float not in scalars and not whole) or isinstance(value, bool):
            raise ConfigError(f"{name}={value!r} must be {_wanted(options)}.")
        if isinstance(value, numbers.Integral) and abs(int(value)) > LARGEST:
            raise ConfigError(f"{name}={value} must not exceed {LARGEST}.")
        if not whole and not math.isfinite(value):
            raise ConfigError(f"{name}={value} must be finite.")
        return
    others = [option for option in options if option not in (int, float, type(None))]
    if scalars and not others and not hasattr(value, "__float__"):
        raise ConfigError(f"{name}={value!r} must be {_wanted(options)}.")
    if others and not scalars and isinstance(value, numbers.Real) and all(map(_is_sequence, others)):
        raise ConfigError(f"{name}={value!r} must be a list.")
    for option in others:
        inner = typing.get_args(option)
        if isinstance(value, list | tuple) and _is_sequence(option) and inner:
            for place, item in enumerate(value):
                _check(item, inner[min(place, len(inner) - 1) if inner[-1] is not ... else 0], f"{name}[{place}]")
            return


def _is_sequence(hint: Any) -> bool:
    return typing.get_origin(hint) in (list, tuple, Sequence)


def _wanted(options: Sequence[Any]) -> str:
    """Return a description of the allowed values."""
    if int in options and float not in options:
        return "an integer"
    if float in options:
        return "a number"
    return "given. Omit it to use the default"
