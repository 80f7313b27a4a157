"""Names in figures: short enough, and apart from each other."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import Any

import numpy as np

MAX_NAME = 30  # characters
FONT_SIZE, LETTER = 7, 0.065  # points, and inches of a letter


def shorten_names(names: Iterable[Any], length: int = MAX_NAME) -> list[str]:
    """Return names of at most ``length`` characters, or longer ones if names would become equal.

    The middle of a long name is omitted, because long names often begin alike. matplotlib does not read names with $
    as formulas.

    Examples
    --------
    >>> shorten_names(["B", "CD4-positive, alpha-beta memory T cell"])
    ['B', 'CD4-positive, alpha…ory T cell']
    """
    texts = [" ".join(str(name).split()) for name in names]
    num_names = len(set(texts))
    while True:
        short = [_shorten(text, length) for text in texts]
        if len(set(short)) == num_names:
            return list(map(as_text, short))
        length *= 2


def free_title(title: str, taken: Container[str]) -> str:
    """Return the title of a panel of results, with the addition "(model)" if a column of the user has this name.

    Examples
    --------
    >>> free_title("state", {"state", "batch"})
    'state (model)'
    """
    while title in taken:
        title += " (model)"
    return title


def as_text(text: str) -> str:
    """Return a text that matplotlib does not read as a formula."""
    return text.replace("$", r"\$")


def _shorten(text: str, length: int) -> str:
    end = length // 3
    return text if len(text) <= length else f"{text[: length - end - 1]}\N{HORIZONTAL ELLIPSIS}{text[-end:]}"


def label_points(
    axis: Any, x: np.ndarray, y: np.ndarray, names: Sequence[str], order: np.ndarray, count: int
) -> list[int]:
    """Write names of points into axes with fixed limits, where they do not cover each other; return the points.

    Parameters
    ----------
    axis : matplotlib.axes.Axes
        Axes whose limits and scales are final.
    x, y : array, shape (points,)
        Coordinates in the units of the axes.
    names : sequence of str
        Names of the points.
    order : array
        Points by decreasing importance.
    count : int
        Largest number of names.
    """
    size = axis.figure.get_size_inches() * (0.8, 0.85)  # of the axes, approximately
    places = axis.transAxes.inverted().transform(axis.transData.transform(np.stack([x, y], 1))) * size
    height, gap = FONT_SIZE / 72, 0.05
    boxes = np.empty((0, 4))
    labeled: list[int] = []
    for point in order.tolist():
        if len(labeled) == count:
            break
        left, bottom = places[point]
        width = LETTER * len(names[point])
        is_right = left + gap + width < size[0]
        start = left + gap if is_right else left - gap - width
        box = np.array([start, bottom, start + width, bottom + height])
        if start < 0 or ((box[:2] < boxes[:, 2:]) & (boxes[:, :2] < box[2:])).all(1).any():
            continue
        boxes = np.vstack([boxes, box])
        labeled.append(point)
        axis.annotate(
            as_text(names[point]), (x[point], y[point]), (3 if is_right else -3, 2), textcoords="offset points",
            fontsize=FONT_SIZE, ha="left" if is_right else "right",
        )  # fmt: skip
    return labeled
