"""Colors of the points of a panel and their key: categories with a legend, or numbers with a color bar."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from typing_extensions import override

from vaekit.plotting.names import shorten_names
from vaekit.plotting.palettes import MISSING, MISSING_COLOR, NO_COLORS, SEQUENTIAL, category_colors
from vaekit.plotting.points import draw_points

if TYPE_CHECKING:
    import pandas as pd

LEGEND_ROWS, LEGEND_ENTRIES = 25, 60  # entries per column, and in total; the largest categories are listed
LEGEND_MARKER = 6.0  # points, for any number of dots
FONT_SIZE = 8
BAR_WIDTH, LABEL_WIDTH = 0.8, 0.25  # inches of a color bar with its numbers, and of its label
SMALL = 0.005  # fraction of the points of a category that is drawn above the others, because they could hide it
TAILS = 0.01  # fraction of the values beyond each end of a color scale: single cells do not determine it


class ColorKey(ABC):
    """Colors of points and their explanation next to a panel.

    Attributes
    ----------
    width : float
        Width of the explanation in inches.
    """

    width: float

    @abstractmethod
    def draw(self, axis: Any, coordinates: np.ndarray, scale: float = 1.0) -> None:
        """Draw the points at UMAP coordinates, and the explanation to the right of the axes."""


def color_key(values: pd.Categorical | np.ndarray, unit: str = "", colors: Mapping[str, str] = NO_COLORS) -> ColorKey:
    """Return the colors of points by their values.

    Parameters
    ----------
    values : pandas.Categorical or array of numbers, shape (points,)
        Category or number of each point; missing values are gray.
    unit : str
        Unit of numbers, the label of the color bar.
    colors : Mapping[str, str]
        Colors of categories; :func:`~vaekit.plotting.palettes.category_colors` has those of the others.
    """
    import pandas as pd

    return CategoryKey(values, colors) if isinstance(values, pd.Categorical) else NumberKey(values, unit)


class PlainKey(ColorKey):
    """One gray for all points."""

    width = 0.0

    @override
    def draw(self, axis: Any, coordinates: np.ndarray, scale: float = 1.0) -> None:
        draw_points(axis, coordinates, np.full(len(coordinates), "gray", dtype=object), scale)


class CategoryKey(ColorKey):
    """A color per category, with a legend in the order of the categories.

    The points of all categories have one random order, so that none covers the others. Only categories of less than
    0.5 % of the points lie above them, with larger dots.

    Parameters
    ----------
    values : pandas.Categorical, shape (points,)
        Category of each point.
    colors : Mapping[str, str]
        Colors of categories.
    """

    def __init__(self, values: pd.Categorical, colors: Mapping[str, str] = NO_COLORS) -> None:
        self.codes = np.asarray(values.codes)
        self.colors = [*category_colors(values.categories, colors), MISSING_COLOR]
        counts = np.bincount(self.codes + 1, minlength=len(values.categories) + 1)
        self.layer = np.where(self.codes < 0, -1, counts[self.codes + 1] < SMALL * len(self.codes))
        present = np.flatnonzero(counts[1:])
        num_hidden = max(0, len(present) - LEGEND_ENTRIES)
        if num_hidden:
            present = np.sort(present[np.argsort(-counts[1:][present], kind="stable")[:LEGEND_ENTRIES]])
        names = shorten_names(values.categories[present])
        self.entries = list(zip(names, [self.colors[code] for code in present], strict=True))
        if num_hidden:
            self.entries.append((f"{num_hidden} smaller ones", "none"))
        if counts[0]:
            self.entries.append((MISSING, MISSING_COLOR))
        self.num_columns = -(-len(self.entries) // LEGEND_ROWS)
        lengths = np.array_split([len(name) for name, _ in self.entries], max(1, self.num_columns))
        self.width = sum(0.35 + 0.068 * column.max(initial=0) for column in lengths)

    @override
    def draw(self, axis: Any, coordinates: np.ndarray, scale: float = 1.0) -> None:
        from matplotlib.colors import to_rgba_array

        draw_points(axis, coordinates, to_rgba_array(self.colors)[self.codes], scale, self.layer)
        self.draw_legend(axis)

    def draw_legend(self, axis: Any, title: str | None = None) -> None:
        """Add the legend to the right of the axes."""
        handles = [_marker(*entry) for entry in self.entries]
        axis.legend(handles=handles, title=title, **_beside(0.5, max(1, self.num_columns)))


class NumberKey(ColorKey):
    """A color scale, with a color bar.

    The scale ends at the 1 % and 99 % quantiles; arrows at its ends mean that there are values beyond them.

    Parameters
    ----------
    values : array, shape (points,)
        Number of each point; NaN and infinite values are missing.
    unit : str
        Label of the color bar.
    limits : tuple of float or None
        Ends of the scale.
    """

    def __init__(self, values: np.ndarray, unit: str = "", limits: tuple[float, float] | None = None) -> None:
        self.values = np.asarray(values, dtype=float)
        self.missing = ~np.isfinite(self.values)
        self.limits = limits or _robust_limits(self.values[~self.missing])
        (self.label,) = shorten_names([unit], 45)
        self.width = BAR_WIDTH + LABEL_WIDTH * bool(unit)

    @override
    def draw(self, axis: Any, coordinates: np.ndarray, scale: float = 1.0) -> None:
        import matplotlib as mpl
        from matplotlib.colors import Normalize

        mapping = mpl.cm.ScalarMappable(Normalize(*self.limits), SEQUENTIAL)
        colors = mapping.to_rgba(np.where(self.missing, self.limits[0], self.values))
        colors[self.missing] = mpl.colors.to_rgba(MISSING_COLOR)
        dots = draw_points(axis, coordinates, colors, scale, -self.missing.astype(int))
        shown = self.values[~self.missing]
        if len(shown):
            below, above = shown.min() < self.limits[0], shown.max() > self.limits[1]
            extend = {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[int(below), int(above)]
            bar = dots.figure.colorbar(mapping, cax=axis.inset_axes((1.03, 0.2, 0.04, 0.6)), extend=extend)
            bar.ax.tick_params(labelsize=FONT_SIZE)
            bar.set_label(self.label, fontsize=FONT_SIZE)
            bar.outline.set_visible(False)
        if self.missing.any():
            axis.legend(handles=[_marker(MISSING, MISSING_COLOR)], **_beside(0.1))


def _robust_limits(values: np.ndarray) -> tuple[float, float]:
    """Return the ends of a color scale, which differ."""
    if not len(values):
        return 0.0, 1.0
    low, high = np.quantile(values, (TAILS, 1 - TAILS))
    if low == high:
        low, high = values.min(), values.max()
    return (float(low), float(high)) if low < high else (float(low), float(low) + 1.0)


def _marker(name: str, color: Any) -> Any:
    from matplotlib.lines import Line2D

    return Line2D(
        [], [], linestyle="none", marker="o", markersize=LEGEND_MARKER, markeredgewidth=0, color=color, label=name
    )


def _beside(height: float, num_columns: int = 1) -> dict[str, Any]:
    """Return the arguments of a legend to the right of the axes, at a height relative to them."""
    return {
        "loc": "center left", "bbox_to_anchor": (1, height), "ncols": num_columns, "fontsize": FONT_SIZE,
        "title_fontsize": FONT_SIZE, "frameon": False, "handletextpad": 0.2, "columnspacing": 0.8, "borderaxespad": 0.2,
    }  # fmt: skip
