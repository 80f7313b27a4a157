"""Figures with blocks below each other, laid out in inches: the axes keep their size next to any legend."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from typing_extensions import override

from vaekit.plotting.color_keys import ColorKey
from vaekit.plotting.names import as_text, shorten_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANEL, MARGIN = 4.2, 0.4  # inches: side of a square panel, and space next to it
TITLE, BELOW, HEADING = 0.35, 0.4, 0.35  # inches of a title, of the space below a panel, and of the figure's title
MAX_WIDTH, LEGEND_STEP = 22.0, 0.6  # inches of a row of panels; legends take multiples, so that more panels are aligned
TITLE_LENGTH, TITLE_SIZE = 45, 11  # characters and points


class Block(ABC):
    """Part of a figure.

    Attributes
    ----------
    width, height : float
        Size in inches, with the space around it.
    """

    width: float
    height: float

    @abstractmethod
    def draw(self, figure: Figure, top: float) -> None:
        """Draw the block ``top`` inches below the upper edge of a figure."""


def stack_blocks(blocks: Sequence[Block], title: str = "") -> Figure:
    """Return a figure with blocks below each other."""
    from matplotlib.figure import Figure

    heading = HEADING * bool(title)
    width = max(block.width for block in blocks)
    figure = Figure(figsize=(width, heading + sum(block.height for block in blocks)))
    top = heading
    for block in blocks:
        block.draw(figure, top)
        top += block.height
    if title:
        left = MARGIN / width
        figure.suptitle(
            as_text(title), x=left, y=1 - 0.1 / figure.get_figheight(), ha="left", va="top", fontsize=TITLE_SIZE + 1
        )
    return figure


def add_axes(figure: Figure, left: float, top: float, width: float, height: float) -> Any:
    """Add axes with a place and a size in inches from the upper left corner of a figure."""
    total_width, total_height = figure.get_size_inches()
    bottom = total_height - top - height
    return figure.add_axes((left / total_width, bottom / total_height, width / total_width, height / total_height))


class PanelBlock(Block):
    """The same points in square panels, each with other colors and its legend.

    Parameters
    ----------
    coordinates : array, shape (points, 2)
        UMAP coordinates.
    keys : Mapping[str, ColorKey]
        Colors of the points by the title of the panel.
    side : float
        Side of a panel in inches.
    """

    def __init__(self, coordinates: np.ndarray, keys: Mapping[str, ColorKey], side: float = PANEL) -> None:
        self.coordinates, self.keys = coordinates, keys
        self.side = side
        self.places: list[tuple[float, int]] = []  # left edge and row of each panel
        left, row, self.width = MARGIN, 0, 0.0
        for key in keys.values():
            width = side + MARGIN + LEGEND_STEP * np.ceil(key.width / LEGEND_STEP)
            if left > MARGIN and left + width > MAX_WIDTH:
                left, row = MARGIN, row + 1
            self.places.append((left, row))
            left += width
            self.width = max(self.width, float(left))
        self.height = (row + 1) * (TITLE + side + BELOW)

    @override
    def draw(self, figure: Figure, top: float) -> None:
        titles = shorten_names(self.keys, TITLE_LENGTH)
        for (left, row), title, key in zip(self.places, titles, self.keys.values(), strict=True):
            axis = add_axes(figure, left, top + row * (TITLE + self.side + BELOW) + TITLE, self.side, self.side)
            key.draw(axis, self.coordinates, (self.side / PANEL) ** 2)
            axis.set_title(title, fontsize=TITLE_SIZE)
