"""Partition of cells into disjoint parts, so that the sums of each part serve every group that contains it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vaekit.analysis.groups import Comparison
from vaekit.data.cells.columns import Column
from vaekit.exceptions import DataError

MAX_LISTED = 5  # groups in a message


class Partition(NamedTuple):
    """The largest sets of cells that are in the same groups of all comparisons, and in the same replicate.

    Attributes
    ----------
    cells : list of ndarray
        Indices of the cells of each part, ascending.
    groups : ndarray, shape (2, comparisons, parts)
        Whether a part belongs to the first and to the second group of a comparison.
    replicate : ndarray, shape (parts,)
        Index of the replicate of each part; 0 without replicates.
    """

    cells: list[np.ndarray]
    groups: np.ndarray
    replicate: np.ndarray

    def parts(self, group: int, comparison: int, replicate: int | None = None) -> list[int]:
        """Return the parts of the first (0) or second (1) group of a comparison, of one replicate or of all."""
        mask = self.groups[group, comparison]
        return np.flatnonzero(mask if replicate is None else mask & (self.replicate == replicate)).tolist()


def partition_cells(comparisons: Sequence[Comparison], replicates: Column | None = None) -> Partition:
    """Return the parts of the cells that are in any comparison."""
    masks = np.stack([mask for one in comparisons for mask in (one.first, one.second)])
    index = np.flatnonzero(masks.any(0))
    codes = np.zeros(masks.shape[1], dtype=np.int64) if replicates is None else replicates.codes
    key = np.concatenate([np.packbits(masks[:, index], axis=0).T, codes[index, None].astype(">u4").view(np.uint8)], 1)
    _, first, part = np.unique(key, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(part.ravel(), kind="stable")
    cells = np.split(index[order], np.cumsum(np.bincount(part.ravel()))[:-1])
    groups = masks[:, index[first]].reshape(len(comparisons), 2, len(first)).transpose(1, 0, 2)
    return Partition(cells, groups, codes[index[first]])


def match_replicates(comparison: Comparison, replicates: Column) -> tuple[list[int], list[int], bool]:
    """Return the replicates of both groups, and whether they are pairs.

    They are pairs if at least half of all replicates, and two, have cells of both groups. Then the others do not count.
    """
    first, second = (set(replicates.codes[mask].tolist()) for mask in (comparison.first, comparison.second))
    common = sorted(first & second)
    if len(common) >= 2 and 2 * len(common) >= len(first | second):
        return common, common, True
    return sorted(first), sorted(second), False


def check_replicates(comparisons: Sequence[Comparison], replicates: Column, key: str, source: str) -> None:
    """Check that the cells to compare have replicates, and each group has two of them.

    Raises
    ------
    DataError
        If not.
    """
    compared = np.any([mask for one in comparisons for mask in (one.first, one.second)], axis=0)
    if num_missing := int((replicates.codes[compared] < 0).sum()):
        raise DataError(
            f"replicate_key={key!r}: {num_missing} of the {int(compared.sum())} cells to compare of {source} have no "
            "value (NaN). Fill in the values, or remove these cells."
        )
    if len(replicates.categories) > max(2, len(replicates.codes) // 2):
        raise DataError(
            f"replicate_key={key!r}: {source} has {len(replicates.categories)} different values in "
            f"{len(replicates.codes)} cells. A replicate is shared by a group of cells, such as those of a donor."
        )
    problems: dict[str, str] = {}
    for one in comparisons:
        for name, codes in zip((one.group1, one.group2), match_replicates(one, replicates)[:2], strict=True):
            if len(codes) < 2:
                problems.setdefault(name, replicates.categories[codes[0]])
    if problems:
        listed = ", ".join(f"{name!r} (only {one!r})" for name, one in list(problems.items())[:MAX_LISTED])
        more = f" and {len(problems) - MAX_LISTED} more" if len(problems) > MAX_LISTED else ""
        raise DataError(
            f"replicate_key={key!r}: at least two replicates per group are required, but some groups of {source} have "
            f"one: {listed}{more}. Name a column with several values in each group, pass group1 without these groups, "
            "or omit replicate_key to compare these cells only."
        )
