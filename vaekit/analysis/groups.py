"""Groups of cells by a column of ``adata.obs``."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vaekit.data.cells.columns import match_category, read_column
from vaekit.exceptions import DataError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd


def two_groups(obs: pd.DataFrame, groupby: str, group1: str, group2: str | None, source: str) -> tuple[Tensor, Tensor]:
    """Return the rows of two groups, int64; the second is all other cells if ``group2`` is None.

    Warns
    -----
    UserWarning
        If a group is a single cell.

    Raises
    ------
    DataError
        If there is no such column, a group has no cells, both are the same or, for ``group2`` of None, cells have no
        label.
    """
    column = read_column(obs, groupby, "groupby", source)
    given = {"group1": group1, **({} if group2 is None else {"group2": group2})}
    wanted = {argument: _category(name, column.categories, obs[groupby]) for argument, name in given.items()}
    for argument, name in wanted.items():
        if name not in column.categories:
            raise DataError(
                f"{argument}={name!r}: no cell of {source} has this value in {groupby!r}. "
                f"{did_you_mean(name, column.categories)}"
            )
    if len(set(wanted.values())) < len(wanted):
        raise DataError(f"group1 and group2 are both {str(group1)!r}: two different groups are needed")
    unknown = int((column.codes < 0).sum())
    if group2 is None and unknown:
        raise DataError(
            f"groupby={groupby!r}: {unknown} of {len(obs)} cells of {source} have no value (NaN): whether they "
            "belong to the rest is unknown; pass group2, fill them in, or leave these cells out"
        )
    first = column.codes == column.categories.index(wanted["group1"])
    second = ~first if group2 is None else column.codes == column.categories.index(wanted["group2"])
    if not second.any():
        raise DataError(
            f"groupby={groupby!r}: all cells of {source} are in group1={wanted['group1']!r}: no cell is left"
        )
    for name, mask in ((wanted["group1"], first), (wanted.get("group2", "the rest"), second)):
        if mask.sum() == 1:
            warnings.warn(
                f"groupby={groupby!r}: {name!r} is a single cell of {source}: what differs may be this cell alone",
                UserWarning,
                stacklevel=3,
            )
    return torch.from_numpy(np.flatnonzero(first)), torch.from_numpy(np.flatnonzero(second))


def _category(name: Any, categories: list[str], values: pd.Series) -> str:
    """Return the category that a name stands for: of numbers and booleans, the one of the same value.

    So ``"0.50"`` names the group 0.5, and ``"true"`` the group True.
    """
    from pandas.api.types import is_numeric_dtype  # (booleans are, too)

    name = match_category(name, categories)
    kind = values.cat.categories.dtype if hasattr(values, "cat") else values.dtype
    if name in categories or not is_numeric_dtype(kind):
        return name
    number = np.float32 if kind == np.float32 else float  # 0.1 in a float32 column has the name 0.10000000149011612
    return next((each for each in categories if _value(each, number) == _value(name, number)), name)


def _value(name: str, number: Callable[[str], Any]) -> Any:
    """Return the number that a name is, or the name in lower case."""
    try:
        return number(name)
    except ValueError:
        return name.strip().lower()
