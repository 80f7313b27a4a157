"""Map of points without a legend, for pages that list the colors as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from vaekit.plotting.figure_files import new_figure
from vaekit.plotting.palettes import MISSING_COLOR, NO_COLORS, category_colors
from vaekit.plotting.points import draw_points

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

SIDE = 4.8  # inches


def plot_map(
    coordinates: np.ndarray, values: pd.Categorical | None, chosen: Mapping[str, str] = NO_COLORS
) -> tuple[Figure, list[str]]:
    """Plot points colored by a category, without a legend.

    Parameters
    ----------
    coordinates : array, shape (points, 2)
        UMAP coordinates.
    values : pandas.Categorical or None
        Category of each point; points without one are gray. None: all points are gray.
    chosen : Mapping[str, str]
        Colors of categories, instead of those of their positions.

    Returns
    -------
    figure : matplotlib.figure.Figure
        One square panel.
    colors : list of str
        Color of each category as ``#rrggbb``, and last that of points without one.
    """
    from matplotlib.colors import to_hex

    names = [] if values is None else values.categories
    colors = [to_hex(color) for color in [*category_colors(names, chosen), MISSING_COLOR]]
    codes = np.full(len(coordinates), -1) if values is None else np.asarray(values.codes)
    figure = new_figure(SIDE, SIDE)
    draw_points(figure.subplots(), coordinates, np.array(colors, dtype=object)[codes], layer=-(codes < 0).astype(int))
    return figure, colors
