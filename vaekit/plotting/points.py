"""Points of a scatter plot of observations: which of many are shown, their size, and the order of drawing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

MAX_POINTS = 20_000  # the UMAP of more points takes minutes and does not show more
MIN_PER_CATEGORY = 30  # points of a category in a sample, or all of a smaller one
DOT_AREA, MIN_DOT, MAX_DOT = 15_000, 0.6, 20.0  # square points of all dots together, and of one
MIN_SMALL = 8.0  # square points of a dot of a small category


def sample_points(count: int, columns: Iterable[pd.Categorical] = ()) -> np.ndarray:
    """Return sorted indices of all points, or of a random subset of 20,000 in which every category is visible.

    All points have the same probability, except that a category with less than 30 points in the sample gets as many, or
    all of its points if there are fewer. The categories share at most half of the sample.

    Parameters
    ----------
    count : int
        Number of points.
    columns : iterable of pandas.Categorical, each of length ``count``
        Categories of the points. Points without one do not form a category.
    """
    if count <= MAX_POINTS:
        return np.arange(count)
    rank = np.random.default_rng(0).permutation(count)
    columns = [np.asarray(values.codes) for values in columns]
    num_categories = sum(len(np.unique(codes[codes >= 0])) for codes in columns)
    quota = min(MIN_PER_CATEGORY, MAX_POINTS // (2 * max(1, num_categories)))
    first = np.zeros(count, dtype=bool)
    for codes in columns:
        first |= (_rank_in_category(codes, rank) < quota) & (codes >= 0)
    order = np.lexsort((rank, ~first))
    return np.sort(order[:MAX_POINTS])


def _rank_in_category(codes: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """Return the position of each point among those of its category, in the order of ``rank``."""
    order = np.lexsort((rank, codes))
    starts = np.flatnonzero(np.diff(codes[order], prepend=codes[order[:1]] - 1))
    sizes = np.diff(np.append(starts, len(codes)))
    result = np.empty(len(codes), dtype=np.int64)
    result[order] = np.arange(len(codes)) - np.repeat(starts, sizes)
    return result


def dot_size(count: int) -> float:
    """Return the area of a dot in square points, for scatter plots of ``count`` dots.

    Examples
    --------
    >>> dot_size(100), dot_size(3000), dot_size(100_000)
    (20.0, 5.0, 0.6)
    """
    return float(np.clip(DOT_AREA / max(1, count), MIN_DOT, MAX_DOT))


def draw_points(
    axis: Any,
    coordinates: np.ndarray,
    colors: np.ndarray,
    scale: float = 1.0,
    layer: np.ndarray | None = None,
    **style: Any,
) -> Any:
    """Draw points in a random order within each layer, as pixels also in vector graphics; return the collection.

    Parameters
    ----------
    axis : matplotlib.axes.Axes
        Axes to draw into.
    coordinates : array, shape (points, 2)
        UMAP coordinates.
    colors : array, shape (points,) or (points, 4)
        Colors, or numbers for a color map.
    scale : float
        Factor of the area of the dots, which follows from their number.
    layer : array of int or None, shape (points,)
        Layer of each point: -1 below the others, such as points without a value; 1 above them and larger.
    **style
        Further arguments of ``scatter``, such as ``cmap``.
    """
    order = np.random.default_rng(0).permutation(len(coordinates))
    layer = np.zeros(len(coordinates), dtype=int) if layer is None else layer
    order = order[np.argsort(layer[order], kind="stable")]
    size = scale * dot_size(len(coordinates))
    sizes = np.where(layer[order] > 0, max(2 * size, MIN_SMALL * scale), size)
    dots = axis.scatter(*coordinates[order].T, s=sizes, c=colors[order], linewidths=0, rasterized=True, **style)
    axis.set(xlabel="UMAP 1", ylabel="UMAP 2", xticks=[], yticks=[])
    axis.set_box_aspect(1)
    axis.margins(0.04)
    return dots
