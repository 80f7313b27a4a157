"""Groups of cells by a column of ``adata.obs``."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vaekit.data.cells.columns import match_category, read_column
from vaekit.exceptions import DataError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd


def two_groups(obs: pd.DataFrame, groupby: str, group1: str, group2: str | None, source: str) -> tuple[Tensor, Tensor]:
    """Return the indices of the cells of two groups, int64; without ``group2``, all other cells are the second group.

    A single cell in a group is a warning. Without ``group2``, every cell needs a label.
    """
    column = read_column(obs, groupby, "groupby", source)
    names: list[str] = []
    for argument, name in (("group1", group1), ("group2", group2)):
        if argument == "group2" and name is None:
            continue
        names.append(_category(name, column.categories, obs[groupby]))
        if names[-1] not in column.categories:
            raise DataError(
                f"{argument}={names[-1]!r} not found in .obs[{groupby!r}] of {source}. "
                f"{did_you_mean(names[-1], column.categories)}"
            )
    if len(set(names)) < len(names):
        raise DataError(f"group1 and group2 are both {str(group1)!r}. Name two different groups.")
    groups = [column.codes == column.categories.index(name) for name in names]
    if group2 is None:
        if unlabeled := int((column.codes < 0).sum()):
            raise DataError(
                f"groupby={groupby!r}: {unlabeled} of {len(obs)} cells of {source} have no value (NaN). Pass group2, "
                "fill in the values, or remove these cells."
            )
        groups, names = [groups[0], ~groups[0]], [names[0], "the rest"]
        if not groups[1].any():
            raise DataError(
                f"groupby={groupby!r}: all cells of {source} are in group1={names[0]!r}. Pass other cells, too."
            )
    for name, mask in zip(names, groups, strict=True):
        if mask.sum() == 1:
            warnings.warn(
                f"groupby={groupby!r}: {name!r} is a single cell of {source}. Differences may be specific to it.",
                UserWarning,
                stacklevel=3,
            )
    first, second = (torch.from_numpy(np.flatnonzero(mask)) for mask in groups)
    return first, second


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
