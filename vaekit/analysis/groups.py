"""Comparisons of groups of cells: by a column of ``adata.obs``, by masks, or by conditions on its columns."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vaekit._core.natural_order import natural_order
from vaekit.analysis.cell_masks import cell_mask, is_mask
from vaekit.data.cells.columns import Column, match_category, read_column
from vaekit.exceptions import DataError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

REST = "Rest"


class Comparison(NamedTuple):
    """Two disjoint groups of cells, neither of them empty.

    Attributes
    ----------
    group1, group2 : str
        Names of the groups.
    first, second : ndarray, shape (cells,)
        Masks of their cells, bool.
    """

    group1: str
    group2: str
    first: np.ndarray
    second: np.ndarray

    @property
    def name(self) -> str:
        """Names of both groups."""
        return f"{self.group1} vs {self.group2}"


def select_comparisons(
    obs: pd.DataFrame, groupby: str | None, group1: Any, group2: Any, source: str
) -> list[Comparison]:
    """Return the comparisons of :func:`vaekit.analysis.differential_expression`; a single cell in a group warns.

    Raises
    ------
    DataError
        If a column or a group does not exist, a group is empty, groups overlap, or cells without a label would be part
        of the rest.
    """
    if groupby is None:
        comparisons = _by_masks(obs, group1, group2, source)
    else:
        comparisons = _by_column(obs, groupby, group1, group2, source)
    _warn_single_cells(comparisons, groupby, source)
    return comparisons


def _warn_single_cells(comparisons: Sequence[Comparison], groupby: str | None, source: str) -> None:
    groups = [pair for one in comparisons for pair in ((one.group1, one.first), (one.group2, one.second))]
    place = "" if groupby is None else f"groupby={groupby!r}: "
    for name in dict.fromkeys(name for name, mask in groups if mask.sum() == 1):
        remove = f", or remove it: adata = adata[adata.obs[{groupby!r}] != {name!r}]"
        warnings.warn(
            f"{place}{'the rest' if name == REST else repr(name)} is a single cell of {source}. Differences may be "
            f"specific to it. Merge it with a similar group{'' if groupby is None or name == REST else remove}.",
            UserWarning,
            stacklevel=4,
        )


def _by_column(obs: pd.DataFrame, groupby: str, group1: Any, group2: Any, source: str) -> list[Comparison]:
    """Return the comparisons of groups that a column names."""
    column = read_column(obs, groupby, "groupby", source)
    for argument, value in (("group1", group1), ("group2", group2)):
        if is_mask(value) and len(value) == len(obs):  # other lists of booleans name groups of a boolean column
            raise DataError(
                f"groupby={groupby!r} and {argument} with {len(value)} booleans exclude each other. Omit groupby to "
                "compare masks."
            )
    if group2 is not None and _is_several(group2):
        raise DataError(f"group2={group2!r} must be one group, or None for all other cells.")
    second = None if group2 is None else _known_category(group2, "group2", column, obs[groupby], groupby, source)
    if group1 is None:
        names = _all_groups(column, second, groupby, source)
    else:
        requested = list(group1) if _is_several(group1) else [group1]
        if not requested:
            raise DataError("group1=[] must name a group. Omit group1 to compare every group.")
        names = [_known_category(name, "group1", column, obs[groupby], groupby, source) for name in requested]
        if repeated := next((name for name in names if names.count(name) > 1), None):
            raise DataError(f"group1={group1!r} names {repeated!r} twice. Name it once.")
    if second in names:
        raise DataError(f"group1 and group2 are both {second!r}. Name two different groups.")
    masks = [np.asarray(column.codes) == column.categories.index(name) for name in names]
    if second is None:
        _check_rest(column, names, groupby, source)
        return [Comparison(name, REST, mask, ~mask) for name, mask in zip(names, masks, strict=True)]
    other = np.asarray(column.codes) == column.categories.index(second)
    return [Comparison(name, second, mask, other) for name, mask in zip(names, masks, strict=True)]


def _all_groups(column: Column, other: str | None, groupby: str, source: str) -> list[str]:
    """Return all groups except ``other``, in natural order: 0, 1, ..., 10."""
    if len(column.categories) > max(2, len(column.codes) // 2):
        raise DataError(
            f"groupby={groupby!r}: {source} has {len(column.categories)} different values in {len(column.codes)} "
            "cells. Name a column with groups of cells, or pass group1 with the groups to compare."
        )
    names = natural_order([name for name in column.categories if name != other])
    if not names:
        raise DataError(f"groupby={groupby!r}: {source} has no group besides group2={other!r}. Pass other cells, too.")
    return names


def _check_rest(column: Column, names: Sequence[str], groupby: str, source: str) -> None:
    """Check that the cells outside of a group exist, and all have a label."""
    if unlabeled := int((column.codes < 0).sum()):
        raise DataError(
            f"groupby={groupby!r}: {unlabeled} of {len(column.codes)} cells of {source} have no value (NaN). Pass "
            "group2, fill in the values, or remove these cells."
        )
    if len(column.categories) == 1:
        raise DataError(
            f"groupby={groupby!r}: all cells of {source} are in group1={names[0]!r}. Pass other cells, too."
        )


def _known_category(name: Any, argument: str, column: Column, values: pd.Series, groupby: str, source: str) -> str:
    """Return the category with a name; raise an error if the column lacks it."""
    category = _category(name, column.categories, values)
    if category not in column.categories:
        raise DataError(
            f"{argument}={category!r} not found in .obs[{groupby!r}] of {source}. "
            f"{did_you_mean(category, column.categories)}"
        )
    return category


def _by_masks(obs: pd.DataFrame, group1: Any, group2: Any, source: str) -> list[Comparison]:
    """Return the comparisons of groups that masks or conditions select."""
    if group1 is None:
        raise DataError(
            "differential_expression: groupby=None and group1=None. Pass groupby='COLUMN' to compare every group of a "
            "column, or group1 as a mask or a condition such as \"COLUMN == 'A'\"."
        )
    several = _is_several(group1) and all(isinstance(item, str) for item in group1)
    firsts = list(group1) if several else [group1]
    if not firsts:
        raise DataError("group1=[] must contain a condition.")
    second = None if group2 is None else cell_mask(obs, group2, "group2", source)
    second_name = REST if group2 is None else group2 if isinstance(group2, str) else "group2"
    comparisons = []
    for item in firsts:
        first = cell_mask(obs, item, "group1", source)
        name = item if isinstance(item, str) else "group1"
        other = ~first if second is None else second
        if overlap := int((first & other).sum()):
            raise DataError(
                f"{name} and {second_name} share {overlap} of {len(obs)} cells of {source}, but groups must not "
                "overlap. Pass group2=mask2 & ~mask1."
            )
        if not other.any():
            raise DataError(f"group1 selects all {len(obs)} cells of {source}. Pass other cells, too.")
        comparisons.append(Comparison(name, second_name, first, other))
    return comparisons


def _is_several(value: Any) -> bool:
    """Return whether a value is a sequence of names, not one name."""
    return not isinstance(value, str | bytes) and hasattr(value, "__iter__")


def _category(name: Any, categories: list[str], values: pd.Series) -> str:
    """Return the category with a name. A number or boolean matches by value: ``"0.50"`` is 0.5, ``"true"`` is True."""
    from pandas.api.types import is_numeric_dtype  # booleans included

    name = match_category(name, categories)
    dtype = getattr(values.dtype, "categories", values).dtype
    if name in categories or not is_numeric_dtype(dtype):
        return name
    to_number = np.float32 if dtype == np.float32 else float  # the name of 0.1 in float32 is 0.10000000149011612

    def value(text: str) -> Any:
        try:
            return to_number(text)
        except ValueError:
            return text.strip().lower()

    return next((category for category in categories if value(category) == value(name)), name)
