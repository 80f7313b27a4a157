"""Columns that color observations in figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from vaekit.exceptions import DataError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


class FigureColumns(NamedTuple):
    """Values that color observations, and colors that the data choose.

    Attributes
    ----------
    values : dict[str, pandas.Categorical or ndarray], each of length ``observations``
        Categories, or numbers as float64, by the title of a panel. Missing numbers are NaN. The position of a category
        determines its color, so a categorical may have unused categories.
    palettes : dict[str, dict[str, str]]
        Colors of categories by title, of the columns that have colors in ``.uns``.
    units : dict[str, str]
        Units of numbers by title, if they are known.
    """

    values: dict[str, pd.Categorical | np.ndarray]
    palettes: dict[str, dict[str, str]]
    units: dict[str, str]


def check_color(color: Sequence[str] | str | None) -> list[str]:
    """Return the names that ``color`` contains.

    Raises
    ------
    DataError
        If a name occurs twice.
    """
    keys = [color] if isinstance(color, str) else list(color or ())
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise DataError(f"color names {twice[0]!r} twice. Name each column or gene once.")
    return keys
