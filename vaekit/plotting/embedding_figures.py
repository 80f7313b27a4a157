"""Figures of latents: UMAPs colored by batch, label and code, and topics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit._core.threads import keep_threads

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

MAX_UMAP_POINTS = 20_000  # more points take minutes and do not show more
UNKNOWN, GRAY = "unknown", "lightgray"
PANEL, MARGIN, HEADING = 4.2, 0.35, 0.5  # inches: side of a square panel, space around it, and for a title
MAX_COLUMNS = 4  # panels per row
LEGEND_ROWS, LEGEND_ENTRIES = 20, 60  # entries per column, and in total; the largest categories are listed
LEGEND_MARKER = 6.0  # points, for any number of dots
MAX_NAME = 30  # characters of a name in a legend
TOPIC_COLUMNS, TOPIC_PANEL, MAX_TOPIC_PANELS = 5, 2.1, 20  # UMAPs of topics: per row, inches per side, in total


def plot_latents(latents: np.ndarray, columns: Mapping[str, pd.Categorical], title: str = "") -> Figure:
    """Plot the UMAP of latents, one panel per column.

    The UMAP of more than 20,000 observations would take minutes, so that a random subset of this size is shown.

    Parameters
    ----------
    latents : array, shape (observations, dimensions)
        Coordinates in latent space.
    columns : Mapping[str, pandas.Categorical]
        As in :func:`plot_embedding`, for all observations.
    title : str
        Beginning of the title, such as the name of the data; the title also states the number of observations.

    Examples
    --------
    >>> import vaekit
    >>> _ = vaekit.analysis.embed(adata, model)
    >>> columns = {"code y": adata.obs["vaekit_y"].array}
    >>> figure = vaekit.plotting.plot_latents(adata.obsm["X_vaekit"], columns)  # doctest: +SKIP
    """
    index = sample_points(len(latents))
    subset = {name: values[index] for name, values in columns.items()}
    heading = f"{title}: " * bool(title) + umap_title(len(index), len(latents))
    return plot_embedding(umap_coordinates(latents[index]), subset, heading)


def plot_embedding(coordinates: np.ndarray, columns: Mapping[str, pd.Categorical], title: str = "") -> Figure:
    """Plot the same points in several panels, each colored by another column.

    The points of all categories are drawn in one random order, so that none of them covers the others.

    Parameters
    ----------
    coordinates : array, shape (points, 2)
        UMAP coordinates.
    columns : Mapping[str, pandas.Categorical]
        Categories of the points, by the title of the panel, such as "batch", "label" and "code y". The legend follows
        the order of the categories, and :func:`category_colors` gives the colors. Points without a category are
        gray. An empty mapping gives one gray panel.
    title : str
        Title of the figure.

    Examples
    --------
    >>> import numpy as np, vaekit
    >>> columns = {"cluster": adata.obs["cluster"].array, "batch": adata.obs["batch"].array}
    >>> points = np.random.default_rng(0).normal(size=(adata.n_obs, 2))
    >>> figure = vaekit.plotting.plot_embedding(points, columns, "random points")
    >>> len(figure.axes)
    2
    """
    import pandas as pd

    gray = {"all": pd.Categorical.from_codes(np.full(len(coordinates), -1), ["none"])}
    panels = {name: _Legend(values) for name, values in columns.items()}
    figure, axes = _panels([legend.width for legend in panels.values()] or [0.0])
    for axis, (name, values) in zip(axes, (columns or gray).items(), strict=True):
        colors = [*category_colors(values.categories), GRAY]
        draw_points(axis, coordinates, np.array(colors, dtype=object)[np.asarray(values.codes)])
        axis.set_title(name if columns else "")
        if columns:
            panels[name].draw(axis, colors)
    figure.suptitle(title)
    return figure


def plot_topics(
    proportions: np.ndarray, groups: pd.Categorical, coordinates: np.ndarray | None = None, name: str = "topics"
) -> Figure:
    """Plot the mean proportions of topics per group as stacked bars, and the proportion of each topic on a UMAP.

    Parameters
    ----------
    proportions : array, shape (observations, topics)
        Proportions of the topics, which sum to 1.
    groups : pandas.Categorical
        Label or cluster of each observation. Observations without one form the group "unknown".
    coordinates : array or None, shape (observations, 2)
        UMAP coordinates. None: the figure has bars only. Of more than 20 topics, the most frequent ones have a UMAP.
    name : str
        Name of the latent, for the title.

    Examples
    --------
    >>> import numpy as np, vaekit
    >>> proportions = np.random.default_rng(0).dirichlet(np.ones(4), size=adata.n_obs)
    >>> figure = vaekit.plotting.plot_topics(proportions, adata.obs["cluster"].array)
    >>> figure.axes[0].get_title()
    'topics per group (cells)'
    """
    colors = category_colors(range(proportions.shape[1]))
    most_frequent = np.sort(np.argsort(-proportions.mean(0), kind="stable")[:MAX_TOPIC_PANELS])
    panels = [] if coordinates is None else most_frequent.tolist()
    num_rows = -(-len(panels) // TOPIC_COLUMNS)
    names, counts, means = _group_means(proportions, groups)
    heights = [1.2 + 0.3 * len(names), *[TOPIC_PANEL] * num_rows]
    figure = new_figure(TOPIC_PANEL * TOPIC_COLUMNS, sum(heights))
    grid = figure.add_gridspec(1 + num_rows, TOPIC_COLUMNS, height_ratios=heights)
    axis = figure.add_subplot(grid[0, :])
    starts = np.cumsum(means, axis=1) - means
    for topic, color in enumerate(colors):
        axis.barh(range(len(names)), means[:, topic], left=starts[:, topic], color=color, label=str(topic))
    axis.set_yticks(range(len(names)), [f"{_shorten(n)} ({count})" for n, count in zip(names, counts, strict=True)])
    axis.tick_params(labelsize=8)
    axis.set(xlim=(0, 1), ylim=(len(names) - 0.5, -0.5), xlabel="mean proportion", title=f"{name} per group (cells)")
    columns = -(-len(colors) // LEGEND_ROWS)
    axis.legend(title="topic", fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), ncols=columns)
    for place, topic in enumerate(panels):
        assert coordinates is not None
        axis = figure.add_subplot(grid[1 + place // TOPIC_COLUMNS, place % TOPIC_COLUMNS])
        draw_points(axis, coordinates, proportions[:, topic], 0.4, cmap=_color_map(colors[topic]), vmin=0, vmax=1)
        axis.set_title(f"topic {topic}", fontsize=9)
        axis.set(xlabel="", ylabel="")
    return figure


def umap_title(count: int, total: int) -> str:
    """Return the title of a UMAP of ``count`` observations out of ``total``."""
    return f"UMAP of the latents, {f'all {total}' if count == total else f'{count} of {total}'} observations"


def sample_points(count: int) -> np.ndarray:
    """Return sorted indices of all points, or of a random subset of ``MAX_UMAP_POINTS`` with equal probabilities."""
    if count <= MAX_UMAP_POINTS:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, MAX_UMAP_POINTS, replace=False))


def umap_coordinates(points: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return UMAP coordinates ``[points, 2]`` of ``[points, dimensions]``, computed by scanpy."""
    import scanpy as sc

    cells = _neighbors(points, seed)
    sc.tl.umap(cells, random_state=seed)
    return np.asarray(cells.obsm["X_umap"])


def leiden_clusters(points: np.ndarray, seed: int = 0) -> pd.Categorical:
    """Return Leiden clusters of ``[points, dimensions]`` at resolution 1, computed by scanpy."""
    import scanpy as sc

    cells = _neighbors(points, seed)
    sc.tl.leiden(cells, flavor="igraph", n_iterations=2, directed=False, random_state=seed)
    return cells.obs["leiden"].array


def category_colors(categories: Sequence[Any]) -> list[Any]:
    """Return one color per category, from a fixed list of 120 colors.

    The name of a code (a whole number) is its place in the list. So a code has the same color in every figure of a
    model, also in figures of cells in which other codes do not occur. Other names follow their order.

    Examples
    --------
    >>> category_colors(["2", "10"]) == [category_colors(range(11))[number] for number in (2, 10)]
    True
    """
    import matplotlib as mpl

    names = [str(category) for category in categories]
    places = [int(name) for name in names] if all(map(str.isdecimal, names)) else list(range(len(names)))
    shades = [mpl.colormaps["tab20"](index)[:3] for index in range(20)]
    colors = [*shades[::2], *shades[1::2]]
    palette: list[Any] = [color for color in colors if len(set(color)) > 1]  # gray means no category
    if max(places, default=0) >= len(palette):
        import scanpy as sc

        palette += sc.pl.palettes.default_102
    return [palette[place % len(palette)] for place in places]


class _Legend:
    """Legend of a panel: entries in the order of the categories, and its width in inches."""

    def __init__(self, values: pd.Categorical) -> None:
        counts = np.bincount(np.asarray(values.codes) + 1, minlength=len(values.categories) + 1)
        self.present = np.flatnonzero(counts[1:])
        self.num_hidden = max(0, len(self.present) - LEGEND_ENTRIES)
        if self.num_hidden:
            self.present = np.sort(self.present[np.argsort(-counts[1:][self.present], kind="stable")[:LEGEND_ENTRIES]])
        self.names = [_shorten(values.categories[code]) for code in self.present]
        if self.num_hidden:
            self.names.append(f"{self.num_hidden} smaller ones")
        if counts[0]:
            self.names.append(UNKNOWN)
        self.has_unknown = bool(counts[0])
        self.columns = -(-len(self.names) // LEGEND_ROWS)
        self.width = self.columns * (0.4 + 0.065 * max(map(len, self.names), default=0))

    def draw(self, axis: Any, colors: Sequence[Any]) -> None:
        """Add the legend to the right of a panel; ``colors`` has one color per category, and a last one for none."""
        from matplotlib.lines import Line2D

        faces = [colors[int(code)] for code in self.present] + ["none"] * bool(self.num_hidden)
        faces += [colors[-1]] * self.has_unknown
        style: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": LEGEND_MARKER, "markeredgewidth": 0}
        handles = [
            Line2D([], [], color=color, label=name, **style) for color, name in zip(faces, self.names, strict=True)
        ]
        axis.legend(
            handles=handles, fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), ncols=self.columns,
            handletextpad=0.2, columnspacing=0.8, borderaxespad=0.2,
        )  # fmt: skip


def _panels(legend_widths: Sequence[float]) -> tuple[Figure, list[Any]]:
    """Return a figure and square axes of one size in rows, with space for the legend at the right of each."""
    from matplotlib.figure import Figure

    columns = min(len(legend_widths), MAX_COLUMNS)
    rows = -(-len(legend_widths) // columns)
    starts = np.cumsum([MARGIN, *(PANEL + max(legend_widths[column::columns]) + MARGIN for column in range(columns))])
    width, height = starts[-1], (PANEL + HEADING) * rows + HEADING
    figure = Figure(figsize=(width, height))
    axes = []
    for place in range(len(legend_widths)):
        row, column = divmod(place, columns)
        bottom = height - HEADING - (row + 1) * (PANEL + HEADING) + MARGIN
        axes.append(figure.add_axes((starts[column] / width, bottom / height, PANEL / width, PANEL / height)))
    return figure, axes


def new_figure(width: float, height: float) -> Figure:
    """Return a figure without a window, whose layout follows its texts."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def draw_points(axis: Any, coordinates: np.ndarray, colors: np.ndarray, scale: float = 1.0, **style: Any) -> Any:
    """Draw points in a random order, as pixels also in vector graphics; return matplotlib's collection.

    Parameters
    ----------
    axis : matplotlib.axes.Axes
        Axes to draw into.
    coordinates : array, shape (points, 2)
        UMAP coordinates.
    colors : array, shape (points,)
        Colors, or numbers for a color map.
    scale : float
        Factor of the size of the dots, which follows from their number.
    **style
        Further arguments of ``scatter``, such as ``cmap``.
    """
    order = np.random.default_rng(0).permutation(len(coordinates))
    size = scale * float(np.clip(12_000 / max(1, len(coordinates)), 0.5, 14))
    dots = axis.scatter(*coordinates[order].T, s=size, c=colors[order], linewidths=0, rasterized=True, **style)
    axis.set(xlabel="UMAP 1", ylabel="UMAP 2", xticks=[], yticks=[])
    axis.set_box_aspect(1)
    return dots


def _color_map(color: Any) -> Any:
    """Return the colors from light gray to ``color``."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("proportion", ["0.9", color])


def _group_means(values: np.ndarray, groups: pd.Categorical) -> tuple[list[str], list[int], np.ndarray]:
    """Return the names, sizes and means ``[groups, columns]`` of the groups that occur."""
    codes, names = np.asarray(groups.codes), [*map(str, groups.categories), UNKNOWN]
    codes = np.where(codes < 0, len(names) - 1, codes)
    present = np.unique(codes)
    masks = [codes == code for code in present]
    means = np.stack([values[mask].mean(0) for mask in masks])
    return [names[code] for code in present], [int(mask.sum()) for mask in masks], means


def _shorten(name: Any) -> str:
    """Return a name of at most ``MAX_NAME`` characters."""
    text = str(name)
    return text if len(text) <= MAX_NAME else f"{text[: MAX_NAME - 1]}\N{HORIZONTAL ELLIPSIS}"


def _neighbors(points: np.ndarray, seed: int) -> Any:
    """Return an AnnData with scanpy's neighbor graph of points."""
    import anndata
    import scanpy as sc

    keep_threads()
    cells = anndata.AnnData(np.asarray(points, dtype=np.float32))
    # scanpy requires more points than neighbors. Exact neighbors take seconds at this size; pynndescent, the default of
    # scanpy for more than 8,192 points, fails from its release 0.7 on.
    neighbors = max(2, min(15, len(points) - 1))
    sc.pp.neighbors(cells, n_neighbors=neighbors, use_rep="X", transformer="sklearn", random_state=seed)
    return cells
