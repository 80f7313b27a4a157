"""Categorical columns of ``adata.obs``: cell-type labels and batches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vaekit.exceptions import DataError, nearest

if TYPE_CHECKING:
    import pandas as pd


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
    if key not in obs.columns:
        raise DataError(
            f"{argument}={key!r}: {source} has no such column in .obs; {nearest(key, map(str, obs.columns))}"
        )
    values = obs[key]
    if values.ndim != 1:
        raise DataError(f"{argument}={key!r}: {source} has several columns of that name in .obs")
    column = values.astype("category").cat.remove_unused_categories()
    names = list(dict.fromkeys(str(category) for category in column.cat.categories))  # 1 and "1" are one category
    lookup = np.array([*(names.index(str(category)) for category in column.cat.categories), -1], dtype=np.int64)
    return Column(lookup[column.cat.codes.to_numpy()], names)


def read_batches(obs: pd.DataFrame, key: str | None, source: str, reference: list[str] | None = None) -> Column | None:
    """Read the batch of each cell, numbered as in ``reference`` (the categories of a checkpoint) if given.

    Returns
    -------
    Column or None
        None where neither the data nor the reference has batches.

    Raises
    ------
    DataError
        If the column is missing or has missing values, is no grouping at all (most cells have a batch of
        their own), or does not fit the reference.
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
    column = read_column(obs, key, "batch_key", source)
    if missing := int((column.codes < 0).sum()):
        raise DataError(
            f"batch_key={key!r}: {missing} of {len(obs)} cells of {source} have no batch (NaN); fill them "
            "in, or leave these cells out"
        )
    if len(column.categories) > max(2, len(obs) // 2):
        raise DataError(
            f"batch_key={key!r}: {source} has {len(column.categories)} different values in {len(obs)} cells; "
            "a batch is a group of cells, such as a donor or a sequencing run"
        )
    if reference is None:
        return column
    if not reference:
        raise DataError(f"batch_key={key!r}: the checkpoint was trained without batches; leave batch_key out")
    if unknown := [name for name in column.categories if name not in reference]:
        raise DataError(
            f"batch_key={key!r}: {source} has batches that the checkpoint does not know: "
            f"{', '.join(map(repr, unknown[:5]))}; it knows {', '.join(map(repr, reference))}"
        )
    return column.recode(reference)


def one_hot(column: Column | None) -> Tensor | None:
    """Return a batch column as float32 ``[cells, num_batches]``."""
    if column is None:
        return None
    return torch.nn.functional.one_hot(torch.from_numpy(column.codes), len(column.categories)).float()
