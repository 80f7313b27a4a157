"""Columns of ``adata.obs``: categories, such as cell types and batches, and numbers.

All readers raise a DataError if the column ``key`` does not exist, exists twice, or has invalid values. Messages use
the name of the ``argument`` that holds the key, and the name of the data, ``source``.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vaekit._core.arguments import short_repr
from vaekit._core.natural_order import natural_order
from vaekit.exceptions import DataError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

MAX_LISTED = 20  # names in a message
BATCH_REMEDY = (
    " Pass one of these names as batch_key if all cells are of this batch. vaekit.analysis.map_query extends a model "
    "by new batches."
)


class Column(NamedTuple):
    """A categorical column.

    Attributes
    ----------
    codes : ndarray, shape (cells,)
        Index of each cell's category, int64, -1 if the value is missing.
    categories : list of str
        Names that occur, in the order of a pandas categorical. Numbers, and text in alphabetical order, are sorted by
        their numbers: "2" before "10".
    """

    codes: np.ndarray
    categories: list[str]

    def names(self) -> np.ndarray:
        """Return the category of each cell as an object array, None if missing."""
        return np.array([*self.categories, None], dtype=object)[self.codes]

    def recode(self, categories: Iterable[str]) -> Column:
        """Return the column with codes that index ``categories``, -1 for others."""
        names = list(categories)
        position = {name: index for index, name in enumerate(names)}
        lookup = np.array([*(position.get(name, -1) for name in self.categories), -1], dtype=np.int64)
        return Column(lookup[self.codes], names)


def read_column(obs: pd.DataFrame, key: str, argument: str, source: str) -> Column:
    """Read a column of ``obs`` as categories named by strings; values may be missing."""
    values = _get_column(obs, key, argument, source)
    if isinstance(values.dtype, np.dtype) and values.dtype.kind in "iuf":  # pandas sorts native types only
        kinds = {2: np.float32, 16: np.float64} if values.dtype.kind == "f" else {}
        values = values.astype(kinds.get(values.dtype.itemsize, values.dtype.newbyteorder("=")))
    try:
        column = values.astype("category").cat.remove_unused_categories()
    except (TypeError, ValueError) as error:  # of lists and dicts
        raise DataError(
            f"{argument}={key!r}: values of {source}, such as {values.iloc[0]!r}, cannot be categories ({error}). "
            f"Convert them with adata.obs[{key!r}].astype(str)."
        ) from error
    position: dict[str, int] = {}
    lookup = [position.setdefault(category_name(name), len(position)) for name in column.cat.categories]  # 1 and "1"
    result = Column(np.array([*lookup, -1], dtype=np.int64)[column.cat.codes.to_numpy()], list(position))
    if column.cat.ordered or result.categories != sorted(result.categories):
        return result
    return result.recode(natural_order(result.categories))


def category_name(category: Any) -> str:
    """Return the name of a category: decoded bytes, else its ``str``."""
    return category.decode(errors="replace") if isinstance(category, bytes) else str(category)


def match_category(name: Any, categories: Iterable[str]) -> str:
    """Return the category that a name means: an equal one, or the same whole number; else the name.

    Examples
    --------
    >>> match_category("1.0", ["1", "2"]), match_category(2, ["1.0", "2.0"]), match_category("a", ["1", "2"])
    ('1', '2.0', 'a')
    """
    names, name = set(categories), category_name(name)
    if name in names or not (whole := re.fullmatch(r"(-?\d+)(\.0*)?", name)):
        return name
    return next((form for form in (whole[1], f"{whole[1]}.0") if form in names), name)


def check_column_name(key: Any, argument: str) -> None:
    """Raise a DataError if the name of a column is neither text nor None."""
    if not isinstance(key, str | None):
        raise DataError(f"{argument}={short_repr(key)} must be the name of a column of .obs, such as 'cell_type'.")


def _get_column(obs: pd.DataFrame, key: str, argument: str, source: str) -> pd.Series:
    if key not in obs.columns:
        raise DataError(f"{argument}={key!r} not found in .obs of {source}. {did_you_mean(key, map(str, obs.columns))}")
    values = obs[key]
    if values.ndim != 1:
        raise DataError(f"{argument}={key!r} names several columns in .obs of {source}. Rename them.")
    return values


def read_categories(
    obs: pd.DataFrame, key: str, argument: str, source: str, trained: list[str] | None = None, unit: str = "category"
) -> Column:
    """Read a column that groups cells, without missing values.

    With ``trained`` categories of a checkpoint, the codes index these. ``unit`` is the name of a category in messages.
    """
    column = read_column(obs, key, argument, source)
    if num_missing := int((column.codes < 0).sum()):
        raise DataError(
            f"{argument}={key!r}: {num_missing} of {len(obs)} cells of {source} have no {unit} (NaN). Fill in the "
            "values, or remove these cells."
        )
    if trained is None:
        if len(column.categories) > max(2, len(obs) // 2):
            raise DataError(
                f"{argument}={key!r}: {source} has {len(column.categories)} different values in {len(obs)} cells. A "
                f"{unit} is shared by a group of cells, such as those of a donor or of a sequencing run."
            )
        if similar := similar_names(column.categories, column.categories):
            warnings.warn(
                f"{argument}={key!r}: {source}: {similar}; they are treated as different ones.",
                UserWarning,
                stacklevel=2,
            )
        return column
    column = Column(column.codes, [match_category(name, trained) for name in column.categories])
    if unknown := [name for name in column.categories if name not in trained]:
        plural = {"batch": "batches", "category": "categories"}[unit]
        more = f" and {len(unknown) - MAX_LISTED} more" if len(unknown) > MAX_LISTED else ""
        if similar := similar_names(unknown, trained):
            remedy = f" {similar}: rename them if they are the same."
        else:
            remedy = BATCH_REMEDY if unit == "batch" else ""
        raise DataError(
            f"{argument}={key!r}: {source} has {plural} that are unknown to the checkpoint: "
            f"{', '.join(map(repr, unknown[:MAX_LISTED]))}{more}. It knows {', '.join(map(repr, trained))}.{remedy}"
        )
    return column.recode(trained)


def similar_names(names: Iterable[str], others: Iterable[str]) -> str:
    """Return a sentence on the names of two lists that differ only in case or surrounding blanks; "" without any.

    Examples
    --------
    >>> similar_names(["Donor1 ", "donor3"], ["donor1", "donor2"])
    "'Donor1 ' and 'donor1' differ only in case or surrounding blanks"
    """
    first: dict[str, str] = {}
    for name in others:
        first.setdefault(name.strip().casefold(), name)
    matches = [(name, first.get(name.strip().casefold(), name)) for name in names]
    pairs = [f"{name!r} and {other!r}" for name, other in matches if name != other]
    more = f" and {len(pairs) - MAX_LISTED} more pairs" if len(pairs) > MAX_LISTED else ""
    return f"{', '.join(pairs[:MAX_LISTED])}{more} differ only in case or surrounding blanks" if pairs else ""


def read_batches(
    obs: pd.DataFrame, key: str | None, source: str, trained: list[str] | None = None, default: str | None = None
) -> Column | None:
    """Read the batch of each cell; None if neither the data nor the ``trained`` checkpoint have batches.

    A ``key`` that is not a column, but the name of a trained batch, means this batch for all cells. A ``key`` of None
    means the ``default`` batch for all cells, or the only batch of the checkpoint.
    """
    if key is None:
        if not trained:
            return None
        if default is None and len(trained) > 1:
            raise DataError(
                f"batch_key is required for {source}: the checkpoint was trained with the batches "
                f"{', '.join(map(repr, trained))}. Pass a column of .obs, or the batch of all cells."
            )
        return _constant(trained[0] if default is None else default, len(obs), trained)
    if trained is not None and not trained:
        raise DataError(
            f"batch_key={key!r}: the checkpoint was trained without batches. Omit batch_key, or extend the model by "
            "the batches of these cells with vaekit.analysis.map_query."
        )
    if trained is not None and key not in obs.columns and key in trained:
        return _constant(key, len(obs), trained)
    return read_categories(obs, key, "batch_key", source, trained, "batch")


def _constant(name: str, num_cells: int, categories: list[str]) -> Column:
    """Return the column of cells that all have the same category."""
    return Column(np.full(num_cells, categories.index(name), dtype=np.int64), list(categories))


def read_numeric(obs: pd.DataFrame, key: str, argument: str, source: str, positive: bool = False) -> np.ndarray:
    """Read a column of finite numbers, float64 ``[cells]``; positive ones if ``positive``."""
    from pandas.api.types import is_numeric_dtype

    values = _get_column(obs, key, argument, source)
    if not is_numeric_dtype(values.dtype) or values.dtype.kind == "c":
        raise DataError(
            f"{argument}={key!r}: values of {source} have type {values.dtype}, such as {str(values.iloc[0])!r}, but "
            f"must be numbers. {_conversion(values, key)}"
        )
    numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    for problem, invalid in (
        ("NaN", np.isnan(numbers)),
        ("infinite", np.isinf(numbers)),
        ("not positive", positive & (numbers <= 0)),
    ):
        if invalid.any():
            first = int(np.argmax(invalid))
            raise DataError(
                f"{argument}={key!r}: {int(invalid.sum())} of {len(obs)} cells of {source} have a value that is "
                f"{problem}, the first {numbers[first]:g} in cell {str(obs.index[first])!r}."
            )
    return numbers


def _conversion(values: pd.Series, key: str) -> str:
    """Return a sentence on the conversion of a column to numbers."""
    column = f"adata.obs[{key!r}]"
    if values.dtype.kind == "M":
        return f"({column} - {column}.min()).dt.total_seconds() gives the time in seconds."
    if values.dtype.kind == "m":
        return f"{column}.dt.total_seconds() gives the time in seconds."
    return f"If they are digits, convert them with {column}.astype(float)."


def one_hot(column: Column | None) -> Tensor | None:
    """Return a column as float32 ``[cells, categories]``."""
    if column is None:
        return None
    return torch.nn.functional.one_hot(torch.from_numpy(column.codes), len(column.categories)).float()
