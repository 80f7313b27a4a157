"""Names in figures: short enough, and apart from each other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

MAX_NAME = 30  # characters
NAME_SIZE = 0.12, 0.035  # space for a name, relative to the width and height of the plot


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


def as_text(text: str) -> str:
    """Return a text that matplotlib does not read as a formula."""
    return text.replace("$", r"\$")


def _shorten(text: str, length: int) -> str:
    end = length // 3
    return text if len(text) <= length else f"{text[: length - end - 1]}\N{HORIZONTAL ELLIPSIS}{text[-end:]}"


def select_apart(x: np.ndarray, y: np.ndarray, order: np.ndarray) -> list[int]:
    """Return the points, in ``order``, that have space for a name next to the points selected before."""
    selected: list[int] = []
    width, height = (
        size * ((values.max() - values.min() if len(values) else 0) or 1)
        for size, values in zip(NAME_SIZE, (x, y), strict=True)
    )
    for point in order:
        if not ((np.abs(x[selected] - x[point]) < width) & (np.abs(y[selected] - y[point]) < height)).any():
            selected.append(int(point))
    return selected
