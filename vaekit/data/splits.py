"""Seeded splits into training, validation and test rows, stratified by class if classes are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vaekit.exceptions import DataError

SPLITS = ("train", "val", "test")


def check_fractions(fractions: Sequence[float]) -> tuple[float, float, float]:
    """Return the fractions of train, val and test as a tuple, if they are positive and sum to 1."""
    values = tuple(float(fraction) for fraction in fractions)
    if len(values) != 3 or not all(value > 0 for value in values) or abs(sum(values) - 1) > 1e-6:
        raise DataError(
            f"split={tuple(fractions)} must be three positive fractions that sum to 1 (train, val, test), such as "
            "(0.8, 0.1, 0.1)."
        )
    return values


def split_rows(
    num_rows: int, fractions: Sequence[float], seed: int, codes: np.ndarray | None = None
) -> dict[str, Tensor]:
    """Split rows ``0 .. num_rows - 1`` at random into disjoint, non-empty parts 'train', 'val' and 'test'.

    Parameters
    ----------
    num_rows, fractions, seed
        Number of rows, fractions of the parts, and seed. The global generators of torch and numpy are not used.
    codes : ndarray or None, shape (num_rows,)
        Class of each row as an integer; unknown ones (-1) form one class. None means no stratification.

    Returns
    -------
    dict of Tensor
        Sorted int64 row indices by part.
    """
    _, val, test = check_fractions(fractions)
    num_val, num_test = round(num_rows * val), round(num_rows * test)
    num_train = num_rows - num_val - num_test
    if min(num_val, num_test, num_train) < 1:
        raise DataError(
            f"split={tuple(fractions)} of {num_rows} observations leaves {num_train} for train, {num_val} for val "
            f"and {num_test} for test. Each must have at least 1."
        )
    rest, test_rows = hold_out(np.arange(num_rows), num_test, seed, codes)
    train_rows, val_rows = hold_out(rest, num_val, seed, codes)
    return as_splits(train_rows, val_rows, test_rows)


def as_splits(train: np.ndarray, val: np.ndarray, test: np.ndarray) -> dict[str, Tensor]:
    """Return three arrays of row indices as sorted int64 tensors by name."""
    return {
        name: torch.from_numpy(np.sort(rows).astype(np.int64))
        for name, rows in zip(SPLITS, (train, val, test), strict=True)
    }


def hold_out(
    rows: np.ndarray, num_held_out: int, seed: int, codes: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Split ``rows`` into the remaining ones and ``num_held_out`` others; ``codes`` are indexed by row."""
    from sklearn.model_selection import train_test_split

    limit = min(num_held_out, len(rows) - num_held_out)
    strata = None if codes is None else _strata(codes[rows], limit)
    rest, held_out = train_test_split(rows, test_size=num_held_out, random_state=seed, stratify=strata)
    return rest, held_out


def _strata(codes: np.ndarray, limit: int) -> np.ndarray:
    """Merge classes for scikit-learn, which requires at least two rows per stratum and at most ``limit`` strata.

    The largest classes keep a separate stratum; the others share the last one.
    """
    _, inverse, sizes = np.unique(codes, return_inverse=True, return_counts=True)
    rank = np.empty(len(sizes), dtype=np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(sizes))
    num_large = int((sizes >= 2).sum())
    shared = num_large if num_large == len(sizes) <= limit else min(num_large, limit - 1)
    strata = np.minimum(rank[inverse], shared)
    if (strata == shared).sum() == 1:  # a single row joins the smallest stratum
        strata = np.minimum(strata, max(shared - 1, 0))
    return strata
