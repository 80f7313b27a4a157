"""Column with the known categories of a latent: names, and the codes of training cells."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vaekit.data.cells.columns import Column, match_category, read_column, similar_names
from vaekit.exceptions import DataError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

ARGUMENT = "observed_key"
UNLABELED = "Unknown"  # default name of the category that means unknown
FEW_CELLS = 3  # labeled training cells per category, below which predictions are unreliable
MAX_LISTED = 5


class LabelColumn(NamedTuple):
    """Known categories of cells.

    Attributes
    ----------
    key : str
        Name of the column.
    codes : ndarray, shape (cells,)
        Index of each cell's category, int64, -1 if unknown.
    categories : list of str
        Names of the categories.
    """

    key: str
    codes: np.ndarray
    categories: list[str]


def read_labels(
    obs: pd.DataFrame, key: str | None, source: str, unlabeled: str, registry: Mapping[str, Any] | None = None
) -> LabelColumn | None:
    """Read a column of labels, of which a missing or empty value, or the name ``unlabeled``, means unknown.

    Parameters
    ----------
    obs : DataFrame
        Table of the cells.
    key : str or None
        Column; the result is None without one.
    source : str
        Name of the cells in messages.
    unlabeled : str
        Name of the category that means unknown.
    registry : mapping or None
        Data registry of a checkpoint, whose categories the codes index. None: those of the column.

    Raises
    ------
    DataError
        If the column does not exist, all labels are unknown, there is a category for every second labeled cell, or a
        category is unknown to the checkpoint.

    Examples
    --------
    >>> import pandas as pd
    >>> obs = pd.DataFrame({"cell_type": ["T", "", "B", None, "Unknown", "T"]})
    >>> read_labels(obs, "cell_type", "cells", "Unknown")
    LabelColumn(key='cell_type', codes=array([ 1, -1,  0, -1, -1,  1]), categories=['B', 'T'])
    """
    if key is None:
        return None
    column = read_column(obs, key, ARGUMENT, source)
    unlabeled = match_category(unlabeled, column.categories)
    names = [name for name in column.categories if name.strip() and name != unlabeled]
    if not names:
        raise DataError(
            f"{ARGUMENT}={key!r}: all {len(obs)} cells of {source} are unlabeled (empty, NaN or {unlabeled!r}). Label "
            "some cells, or omit the labels."
        )
    if unlabeled != UNLABELED and unlabeled not in column.categories:
        hint = did_you_mean(unlabeled, column.categories)
        raise DataError(f"unlabeled_category={unlabeled!r} not found in .obs[{key!r}] of {source}. {hint}")
    trained = (registry or {}).get("observed_categories", {}).get(key)
    if trained is not None:
        if new := [name for name in names if match_category(name, trained) not in trained]:
            raise DataError(
                f"{ARGUMENT}={key!r}: {source} has categories that are unknown to the checkpoint: {_listed(new)}. It "
                f"knows {_listed(trained)}."
            )
        matched = [match_category(name, trained) if name in names else "" for name in column.categories]
        return LabelColumn(key, Column(column.codes, matched).recode(trained).codes, list(trained))
    _warn_names_of_unknown(names, key, source, unlabeled)
    if similar := similar_names(names, names):
        warnings.warn(
            f"{ARGUMENT}={key!r}: {source}: {similar}; they are treated as different ones.", UserWarning, stacklevel=2
        )
    codes = column.recode(names).codes
    num_labeled = int((codes >= 0).sum())
    if len(names) > max(2, num_labeled // 2):
        raise DataError(
            f"{ARGUMENT}={key!r}: {source} has {len(names)} different labels for {num_labeled} labeled cells, such as "
            f"{_listed(names)}. A category is shared by several cells."
        )
    return LabelColumn(key, codes, names)


def training_labels(labels: LabelColumn | None, source: str, train: np.ndarray, warn: bool) -> Tensor | None:
    """Return the codes of the training cells, -1 for all other cells, so that no other label is used in training.

    Raises
    ------
    DataError
        If no training cell has a label.

    Warns
    -----
    UserWarning
        If a category has fewer than three labeled training cells, and ``warn`` is True.
    """
    if labels is None:
        return None
    codes = np.full_like(labels.codes, -1)
    codes[train] = labels.codes[train]
    counts = np.bincount(codes[codes >= 0], minlength=len(labels.categories))
    if not counts.any():
        raise DataError(
            f"{ARGUMENT}={labels.key!r}: none of the {len(train)} training cells of {source} is labeled. Label more "
            "cells, or pass another seed of the split."
        )
    few = [f"{name!r} ({count})" for name, count in zip(labels.categories, counts, strict=True) if count < FEW_CELLS]
    if few and warn:
        more = f" and {len(few) - MAX_LISTED} more" if len(few) > MAX_LISTED else ""
        warnings.warn(
            f"{ARGUMENT}={labels.key!r}: few labeled training cells of {source} for {', '.join(few[:MAX_LISTED])}{more}"
            "; predictions of these categories are unreliable. Label more of their cells, or merge them with similar "
            "categories.",
            UserWarning,
            stacklevel=3,
        )
    return torch.from_numpy(codes)


def _warn_names_of_unknown(names: list[str], key: str, source: str, unlabeled: str) -> None:
    """Warn about a category whose name usually means unknown."""
    usual = {"unknown", "unlabeled", "unlabelled", "unassigned", "nan", "none", "na", "n/a", "null", "-", "?", "-1"}
    if found := [name for name in names if name.strip().casefold().removesuffix(".0") in usual]:
        warnings.warn(
            f"{ARGUMENT}={key!r}: {source} has the category {found[0]!r}, which is treated as a known label. If it "
            f"means unknown, pass unlabeled_category={found[0]!r} (now {unlabeled!r}).",
            UserWarning,
            stacklevel=3,
        )


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names[:MAX_LISTED])) + (", ..." if len(names) > MAX_LISTED else "")
