"""Columns of ``adata.obs``: categories, such as cell types and batches, and numbers."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vaekit.exceptions import DataError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

LISTED = 20  # unknown names in a message


class Column(NamedTuple):
    """A categorical column.

    Attributes
    ----------
    codes
        Number of each cell's category, int64 ``[cells]``, -1 where the value is missing.
    categories
        Names, in the column's own order (a categorical's order, else sorted); only those that occur.
    """

    codes: np.ndarray
    categories: list[str]

    def names(self) -> np.ndarray:
        """Return the category of each cell as an object array, None where unknown."""
        return np.array([*self.categories, None], dtype=object)[self.codes]

    def recode(self, categories: Iterable[str]) -> Column:
        """Return the column with codes that number ``categories``, -1 for those outside."""
        wanted = list(categories)
        numbers = {name: number for number, name in enumerate(wanted)}
        lookup = np.array([*(numbers.get(name, -1) for name in self.categories), -1], dtype=np.int64)
        return Column(lookup[self.codes], wanted)


def read_column(obs: pd.DataFrame, key: str, argument: str, source: str) -> Column:
    """Read a column of ``obs`` as categories named by strings.

    Parameters
    ----------
    obs
        The cells' table.
    key
        Name of the column.
    argument
        The argument that named it, for the error message.
    source
        Where the table comes from, for the error message.

    Raises
    ------
    DataError
        If there is no such column.
    """
    values = _only_column(obs, key, argument, source)
    if isinstance(values.dtype, np.dtype) and values.dtype.kind in "iuf":  # pandas sorts the machine's own types alone
        kinds = {2: np.float32, 16: np.float64} if values.dtype.kind == "f" else {}
        values = values.astype(kinds.get(values.dtype.itemsize, values.dtype.newbyteorder("=")))
    try:
        column = values.astype("category").cat.remove_unused_categories()
    except (TypeError, ValueError) as error:  # of lists and dicts
        raise DataError(
            f"{argument}={key!r}: the values of {source}, such as {values.iloc[0]!r}, cannot be categories ({error}). "
            f"adata.obs[{key!r}].astype(str) makes text of them."
        ) from error
    number: dict[str, int] = {}
    lookup = [
        number.setdefault(category_name(category), len(number)) for category in column.cat.categories
    ]  # 1 and "1"
    return Column(np.array([*lookup, -1], dtype=np.int64)[column.cat.codes.to_numpy()], list(number))


def category_name(category: Any) -> str:
    """Return the name of a category: text for bytes, else what ``str`` gives."""
    return category.decode(errors="replace") if isinstance(category, bytes) else str(category)


def match_category(name: Any, categories: Iterable[str]) -> str:
    """Return the category that a name means: itself, or the one that is the same whole number.

    Without such a category the name is returned.

    Examples
    --------
    >>> match_category("1.0", ["1", "2"]), match_category(2, ["1.0", "2.0"]), match_category("a", ["1", "2"])
    ('1', '2.0', 'a')
    """
    known, name = set(categories), category_name(name)
    if name in known or not (whole := re.fullmatch(r"(-?\d+)(\.0*)?", name)):
        return name
    return next((form for form in (whole[1], f"{whole[1]}.0") if form in known), name)


def _only_column(obs: pd.DataFrame, key: str, argument: str, source: str) -> pd.Series:
    if key not in obs.columns:
        raise DataError(
            f"{argument}={key!r}: {source} has no such column in .obs. {did_you_mean(key, map(str, obs.columns))}"
        )
    values = obs[key]
    if values.ndim != 1:
        raise DataError(f"{argument}={key!r}: {source} has several columns of that name in .obs")
    return values


def read_categories(
    obs: pd.DataFrame, key: str, argument: str, source: str, reference: list[str] | None = None, what: str = "level"
) -> Column:
    """Read the group of each cell, numbered as in ``reference`` (the categories of a checkpoint) if given.

    Raises
    ------
    DataError
        If the column is missing or has missing values, is no grouping at all (most cells have a group of
        their own), or has groups that the reference lacks.
    """
    column = read_column(obs, key, argument, source)
    if missing := int((column.codes < 0).sum()):
        raise DataError(
            f"{argument}={key!r}: {missing} of {len(obs)} cells of {source} have no {what} (NaN); fill them "
            "in, or leave these cells out"
        )
    if reference is None:
        if len(column.categories) > max(2, len(obs) // 2):
            raise DataError(
                f"{argument}={key!r}: {source} has {len(column.categories)} different values in {len(obs)} cells; "
                f"a {what} is shared by a group of cells, such as those of a donor or of a sequencing run"
            )
        if alike := _alike(column.categories, column.categories):
            warnings.warn(
                f"{argument}={key!r}: {source}: {alike}; they are taken for different ones", UserWarning, stacklevel=2
            )
        return column
    column = Column(column.codes, [match_category(name, reference) for name in column.categories])
    if unknown := [name for name in column.categories if name not in reference]:
        plural = "batches" if what == "batch" else f"{what}s"
        more = f" and {len(unknown) - LISTED} more" if len(unknown) > LISTED else ""
        if alike := _alike(unknown, reference):
            help_ = f"; {alike}: rename them if they are the same"
        else:
            help_ = "; vaekit.analysis.map_query extends a model by new batches" if what == "batch" else ""
        raise DataError(
            f"{argument}={key!r}: {source} has {plural} that the checkpoint does not know: "
            f"{', '.join(map(repr, unknown[:LISTED]))}{more}; it knows {', '.join(map(repr, reference))}{help_}"
        )
    return column.recode(reference)


def _alike(names: Iterable[str], others: Iterable[str]) -> str:
    """Say which of two lists of names differ only by blanks around them or by case; "" if none do.

    Examples
    --------
    >>> _alike(["Donor1 ", "donor3"], ["donor1", "donor2"])
    "'Donor1 ' and 'donor1' differ only by surrounding blanks or case"
    """
    first: dict[str, str] = {}
    for name in others:
        first.setdefault(name.strip().casefold(), name)
    pairs = [(name, first.get(name.strip().casefold(), name)) for name in names]
    found = [f"{name!r} and {other!r}" for name, other in pairs if name != other]
    more = f" and {len(found) - LISTED} more pairs" if len(found) > LISTED else ""
    return f"{', '.join(found[:LISTED])}{more} differ only by surrounding blanks or case" if found else ""


def read_batches(obs: pd.DataFrame, key: str | None, source: str, reference: list[str] | None = None) -> Column | None:
    """Read the batch of each cell, numbered as in ``reference`` (the categories of a checkpoint) if given.

    Returns
    -------
    Column or None
        None where neither the data nor the reference has batches.

    Raises
    ------
    DataError
        As for :func:`read_categories`; or if the reference has batches and the data have not, or the other way round.
    """
    if key is None:
        if not reference:
            return None
        if len(reference) > 1:
            raise DataError(
                f"batch_key is needed for {source}: the checkpoint was trained with the batches "
                + ", ".join(map(repr, reference))
            )
        return Column(np.zeros(len(obs), dtype=np.int64), list(reference))  # one batch only: there is no choice
    if reference is not None and not reference:
        raise DataError(f"batch_key={key!r}: the checkpoint was trained without batches; leave batch_key out")
    return read_categories(obs, key, "batch_key", source, reference, "batch")


def read_numeric(obs: pd.DataFrame, key: str, argument: str, source: str, positive: bool = False) -> np.ndarray:
    """Read a column of numbers, float64 ``[cells]``.

    Raises
    ------
    DataError
        If there is no such column, or its values are no numbers, missing, not finite or, where they must be, not
        positive.
    """
    from pandas.api.types import is_numeric_dtype

    values = _only_column(obs, key, argument, source)
    if not is_numeric_dtype(values.dtype) or values.dtype.kind == "c":
        raise DataError(
            f"{argument}={key!r}: the values of {source} are of type {values.dtype}, such as {str(values.iloc[0])!r}, "
            f"and numbers are needed; {_to_numbers(values, key)}"
        )
    numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    for problem, bad in (("NaN", np.isnan(numbers)), ("infinite", np.isinf(numbers)), ("not positive", numbers <= 0)):
        if bad.any() and (positive or problem != "not positive"):
            first = int(np.argmax(bad))
            raise DataError(
                f"{argument}={key!r}: {int(bad.sum())} of {len(obs)} cells of {source} have a value that is {problem}, "
                f"the first {numbers[first]:g} in cell {str(obs.index[first])!r}"
            )
    return numbers


def _to_numbers(values: pd.Series, key: str) -> str:
    """Return how to make numbers of a column."""
    column = f"adata.obs[{key!r}]"
    if values.dtype.kind == "M":
        return f"({column} - {column}.min()).dt.total_seconds() gives the time in seconds"
    if values.dtype.kind == "m":
        return f"{column}.dt.total_seconds() gives the time in seconds"
    return f"if they are digits, {column}.astype(float) makes numbers of them"


def one_hot(column: Column | None) -> Tensor | None:
    """Return a batch column as float32 ``[cells, num_batches]``."""
    if column is None:
        return None
    return torch.nn.functional.one_hot(torch.from_numpy(column.codes), len(column.categories)).float()
