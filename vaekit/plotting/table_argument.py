"""Check of an argument that must be a table of results."""

from __future__ import annotations

from typing import Any

from vaekit.exceptions import DataError


def check_table(table: Any, columns: list[str], origin: str) -> None:
    """Check that a table is the result of a function of ``vaekit.analysis``.

    Parameters
    ----------
    table : object
        The argument.
    columns : list of str
        Columns that such a table has.
    origin : str
        Name of the function.

    Raises
    ------
    DataError
        If it is not a DataFrame, or lacks a column.

    Examples
    --------
    >>> check_table(None, ["code"], "markers")
    Traceback (most recent call last):
        ...
    vaekit.exceptions.DataError: table has type NoneType, but must be the result of vaekit.analysis.markers.
    """
    must = f"but must be the result of vaekit.analysis.{origin}."
    if not hasattr(table, "columns") or not hasattr(table, "iloc"):
        raise DataError(f"table has type {type(table).__name__}, {must}")
    if missing := [name for name in columns if name not in table.columns]:
        raise DataError(f"table lacks the column {missing[0]!r}, {must}")
