"""Values in the texts of flags."""

from __future__ import annotations

from collections.abc import Sequence

from vaekit.exceptions import ConfigError


def read_assignments(texts: Sequence[str] | None, name: str) -> dict[str, list[str]]:
    """Return the values of each key in texts such as ``"donor=A"``.

    Raises
    ------
    ConfigError
        If a text is not of this form.

    Examples
    --------
    >>> read_assignments(["donor=A", "donor=B", "age=40"], "covariates")
    {'donor': ['A', 'B'], 'age': ['40']}
    """
    values: dict[str, list[str]] = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not (key and equals and value):
            raise ConfigError(f"{name}={text!r} must have the form NAME=VALUE, such as donor=A.")
        values.setdefault(key, []).append(value)
    return values
