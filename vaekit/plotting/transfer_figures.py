"""Figures of transferred or predicted labels: on a UMAP, the uncertainty of each label, and their reliability."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from typing_extensions import override

from vaekit.plotting import embedding_figures
from vaekit.plotting.blocks import MARGIN, TITLE, TITLE_SIZE, Block, PanelBlock, add_axes, stack_blocks
from vaekit.plotting.color_keys import FONT_SIZE, NO_COLORS, ColorKey, NumberKey, color_key
from vaekit.plotting.embedding_figures import NO_PALETTES, NO_UNITS, categorical_columns, column_keys, umap_title
from vaekit.plotting.names import free_title, shorten_names
from vaekit.plotting.points import sample_points

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

LABEL_PANEL = "transferred label"
BAR, AXIS, LETTER, LENGTH = 0.24, 0.55, 0.075, 4.2  # inches of a row, of its axis, of a letter, and of the axes


def plot_transferred_labels(
    latents: np.ndarray,
    labels: pd.Categorical,
    uncertainty: np.ndarray,
    columns: Mapping[str, pd.Categorical | np.ndarray],
    palettes: Mapping[str, Mapping[str, str]] = NO_PALETTES,
    units: Mapping[str, str] = NO_UNITS,
    title: str = "",
    panel: str = LABEL_PANEL,
    scale: str = "1 - weight of the label",
    colors: Mapping[str, str] = NO_COLORS,
) -> Figure:
    """Plot label and uncertainty on the UMAP of the latents, and the quantiles of the uncertainty of each label.

    Parameters
    ----------
    latents : array, shape (cells, dimensions)
        Coordinates of the labeled cells in latent space.
    labels : pandas.Categorical
        Label of each cell.
    uncertainty : array, shape (cells,)
        Uncertainty of each label, between 0 and 1.
    columns : Mapping[str, pandas.Categorical or array]
        Further columns of the cells, by the title of the panel.
    palettes : Mapping[str, Mapping[str, str]]
        Colors of categories by the title of the panel.
    units : Mapping[str, str]
        Units of numbers by the title of the panel.
    title : str
        Beginning of the title.
    panel, scale : str
        Title of the panel of the labels, and meaning of the uncertainty.
    colors : Mapping[str, str]
        Colors of the labels.
    """
    index = sample_points(len(latents), [labels, *categorical_columns(columns)])
    keys = column_keys({name: values[index] for name, values in columns.items()}, palettes, units)
    own: dict[str, ColorKey] = {
        panel: color_key(labels[index], colors=colors),
        "uncertainty": NumberKey(uncertainty[index], scale, (0.0, 1.0)),
    }
    keys = {**{free_title(title, keys): key for title, key in own.items()}, **keys}
    coordinates = embedding_figures.umap_coordinates(latents[index])
    blocks = [PanelBlock(coordinates, keys), _QuantileBlock(labels, uncertainty)]
    return stack_blocks(blocks, f"{title}: " * bool(title) + umap_title(len(index), len(latents)))


class _QuantileBlock(Block):
    """The median, the quartiles and the 5 and 95 % quantiles of the uncertainty of each label, largest label first."""

    def __init__(self, labels: pd.Categorical, uncertainty: np.ndarray) -> None:
        codes = np.asarray(labels.codes)
        sizes = np.bincount(codes[codes >= 0], minlength=len(labels.categories))
        order = np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes)]
        names = shorten_names(labels.categories)
        self.names = [f"{names[code]} ({sizes[code]:,})" for code in order]
        self.groups = [uncertainty[codes == code] for code in order]
        self.left = MARGIN + LETTER * max(map(len, self.names), default=0)
        self.rows = BAR * max(2, len(self.names))
        self.width, self.height = self.left + LENGTH + MARGIN, TITLE + self.rows + AXIS

    @override
    def draw(self, figure: Figure, top: float) -> None:
        axis = add_axes(figure, self.left, top + TITLE, LENGTH, self.rows)
        for row, group in enumerate(self.groups):
            low, lower, median, upper, high = np.quantile(group, (0.05, 0.25, 0.5, 0.75, 0.95))
            axis.plot([low, high], [row, row], color="0.5", linewidth=1)
            axis.plot([lower, upper], [row, row], color="0.6", linewidth=7, solid_capstyle="butt")
            axis.plot(median, row, "|", color="black", markersize=9)
        axis.set(xlim=(-0.02, 1.02), ylim=(len(self.groups) - 0.4, -0.6))
        axis.set_yticks(range(len(self.names)), self.names)
        axis.tick_params(labelsize=FONT_SIZE)
        axis.set_xlabel("uncertainty: median, quartiles, 5 to 95 %", fontsize=FONT_SIZE)
        axis.set_title("uncertainty of each label (cells)", fontsize=TITLE_SIZE)
