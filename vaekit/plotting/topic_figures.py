"""Figures of topics: mean proportions per group as bars, and the proportion of each topic on a UMAP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from typing_extensions import override

from vaekit.plotting.blocks import MARGIN, TITLE, TITLE_SIZE, Block, add_axes, stack_blocks
from vaekit.plotting.color_keys import FONT_SIZE, CategoryKey
from vaekit.plotting.names import as_text, shorten_names
from vaekit.plotting.palettes import MISSING, category_colors
from vaekit.plotting.points import draw_points

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

UMAP_COLUMNS, UMAP_PANEL, MAX_UMAPS = 5, 1.9, 20  # UMAPs of topics: per row, inches per side, in total
BAR, AXIS, LETTER = 0.28, 0.55, 0.075  # inches of a bar, of the horizontal axis, and of a letter


def plot_topics(
    proportions: np.ndarray,
    groups: pd.Categorical,
    coordinates: np.ndarray | None = None,
    name: str = "topics",
    shown: np.ndarray | None = None,
) -> Figure:
    """Plot the mean proportions of topics per group as stacked bars, and the proportion of each topic on a UMAP.

    Parameters
    ----------
    proportions : array, shape (observations, topics)
        Proportions of the topics, which sum to 1.
    groups : pandas.Categorical
        Label or cluster of each observation. Observations without one form the group "missing".
    coordinates : array or None, shape (points, 2)
        UMAP coordinates. None: the figure has bars only. Of more than 20 topics, the most frequent ones have a UMAP.
    name : str
        Name of the latent, for the title.
    shown : array or None, shape (points,)
        Indices of the observations that have coordinates; None means all.

    Examples
    --------
    >>> import numpy as np, vaekit
    >>> proportions = np.random.default_rng(0).dirichlet(np.ones(4), size=adata.n_obs)
    >>> figure = vaekit.plotting.plot_topics(proportions, adata.obs["cluster"].array)
    >>> figure.axes[0].get_title()
    'topics: mean proportions per group (observations)'
    """
    return stack_blocks([TopicBlock(proportions, groups, coordinates, name, shown)])


class TopicBlock(Block):
    """Bars and UMAPs of topics, with the arguments of :func:`plot_topics`."""

    def __init__(
        self,
        proportions: np.ndarray,
        groups: pd.Categorical,
        coordinates: np.ndarray | None,
        name: str,
        shown: np.ndarray | None = None,
    ) -> None:
        import pandas as pd

        self.proportions = proportions if shown is None else proportions[shown]
        self.coordinates, self.name = coordinates, name
        self.colors = category_colors(range(proportions.shape[1]))
        most_frequent = np.sort(np.argsort(-proportions.mean(0), kind="stable")[:MAX_UMAPS])
        self.topics = [] if coordinates is None else most_frequent.tolist()
        names, counts, self.means = _group_means(proportions, groups)
        self.names = [f"{text} ({count:,})" for text, count in zip(shorten_names(names), counts, strict=True)]
        largest = pd.Categorical.from_codes(np.arange(len(self.colors)), list(map(str, range(len(self.colors)))))
        self.legend = CategoryKey(largest)
        self.left = MARGIN + LETTER * max(map(len, self.names))
        self.bars = UMAP_COLUMNS * (UMAP_PANEL + MARGIN) - MARGIN
        self.width = self.left + self.bars + MARGIN + self.legend.width
        self.bars_height = max(BAR * len(self.names), 0.8)
        num_rows = -(-len(self.topics) // UMAP_COLUMNS)
        self.height = TITLE + self.bars_height + AXIS + num_rows * (TITLE + UMAP_PANEL) + MARGIN

    @override
    def draw(self, figure: Figure, top: float) -> None:
        self._draw_bars(add_axes(figure, self.left, top + TITLE, self.bars, self.bars_height))
        top += TITLE + self.bars_height + AXIS
        for place, topic in enumerate(self.topics):
            row, column = divmod(place, UMAP_COLUMNS)
            left, start = self.left + column * (UMAP_PANEL + MARGIN), top + row * (TITLE + UMAP_PANEL) + TITLE
            self._draw_umap(add_axes(figure, left, start, UMAP_PANEL, UMAP_PANEL), topic)

    def _draw_bars(self, axis: Any) -> None:
        starts = np.cumsum(self.means, axis=1) - self.means
        for topic, color in enumerate(self.colors):
            axis.barh(range(len(self.names)), self.means[:, topic], left=starts[:, topic], color=color)
        axis.set_yticks(range(len(self.names)), self.names)
        axis.tick_params(labelsize=FONT_SIZE)
        axis.set(xlim=(0, 1), ylim=(len(self.names) - 0.5, -0.5))
        axis.set_xlabel("mean proportion", fontsize=FONT_SIZE)
        axis.set_title(as_text(f"{self.name}: mean proportions per group (observations)"), fontsize=TITLE_SIZE)
        self.legend.draw_legend(axis, "topic")

    def _draw_umap(self, axis: Any, topic: int) -> None:
        assert self.coordinates is not None
        values, cmap = self.proportions[:, topic], _color_map(self.colors[topic])
        draw_points(axis, self.coordinates, values, 0.3, cmap=cmap, vmin=0, vmax=1)
        first = " (gray 0, full color 1)" if topic == self.topics[0] else ""
        axis.set_title(f"topic {topic}{first}", fontsize=FONT_SIZE)
        axis.set(xlabel="", ylabel="")


def _color_map(color: str) -> Any:
    """Return the colors from light gray to ``color``."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("proportion", ["0.9", color])


def _group_means(values: np.ndarray, groups: pd.Categorical) -> tuple[list[str], list[int], np.ndarray]:
    """Return the names, sizes and means ``[groups, columns]`` of the groups that occur."""
    codes, names = np.asarray(groups.codes), [*map(str, groups.categories), MISSING]
    codes = np.where(codes < 0, len(names) - 1, codes)
    present = np.unique(codes)
    masks = [codes == code for code in present]
    means = np.stack([values[mask].mean(0) for mask in masks])
    return [names[code] for code in present], [int(mask.sum()) for mask in masks], means
