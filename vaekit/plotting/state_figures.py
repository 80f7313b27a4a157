"""Figure of states: their tree, the agreement of the models, a UMAP and marker genes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from typing_extensions import override

from vaekit.plotting import embedding_figures
from vaekit.plotting.blocks import MARGIN, PANEL, TITLE, Block, PanelBlock, add_axes, stack_blocks
from vaekit.plotting.color_keys import FONT_SIZE, CategoryKey
from vaekit.plotting.embedding_figures import NO_PALETTES, NO_UNITS, categorical_columns, column_keys, umap_title
from vaekit.plotting.names import as_text, free_title
from vaekit.plotting.palettes import category_colors
from vaekit.plotting.points import sample_points

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

NUM_MARKERS = 4  # genes per state
MIN_LOG2_RATIO = 0.5  # genes with less are not shown as markers
ROW, COLUMN, LETTER = 0.24, 0.19, 0.075  # inches of a row and a column of the heat map, and of a letter
NO_COLUMNS: Mapping[str, Any] = MappingProxyType({})


def plot_states(
    latents: np.ndarray,
    codes: pd.Categorical,
    states: pd.DataFrame,
    tree: pd.DataFrame,
    agreement: pd.DataFrame,
    markers: pd.DataFrame,
    compositions: pd.DataFrame,
    title: str = "",
    columns: Mapping[str, pd.Categorical | np.ndarray] = NO_COLUMNS,
    palettes: Mapping[str, Mapping[str, str]] = NO_PALETTES,
    units: Mapping[str, str] = NO_UNITS,
) -> Figure:
    """Plot the tree of states, the agreement of the models, a UMAP of the cells, and marker genes.

    Parameters
    ----------
    latents : array, shape (cells, dimensions)
        Coordinates of the cells; a random subset of 20,000 is shown if there are more.
    codes : pandas.Categorical
        State of each cell.
    states, tree, agreement, markers, compositions : pandas.DataFrame
        Tables of :class:`vaekit.analysis.States`.
    title : str
        Title of the figure.
    columns : Mapping[str, pandas.Categorical or array]
        Further columns of the cells that color the UMAP, by the title of the panel.
    palettes : Mapping[str, Mapping[str, str]]
        Colors of categories by the title of the panel.
    units : Mapping[str, str]
        Units of numbers by the title of the panel.
    """
    index = sample_points(len(latents), [codes, *categorical_columns(columns)])
    coordinates = embedding_figures.umap_coordinates(latents[index])
    keys = column_keys({name: values[index] for name, values in columns.items()}, palettes, units)
    state_key = CategoryKey(codes[index].rename_categories(_describe(states)))
    panels = PanelBlock(coordinates, {free_title("state", keys): state_key, **keys})
    colors = category_colors(states.index)
    genes = _select_markers(markers, len(states))
    blocks = [
        _TreeBlock(states, tree, agreement, colors),
        panels,
        _MarkerBlock(compositions.loc[genes], states, colors),
    ]
    heading = f"{title}: " * bool(title) + umap_title(len(index), len(latents))
    return stack_blocks(blocks, heading)


def _describe(states: pd.DataFrame) -> list[str]:
    """Return the names of the states with their numbers of cells and their stability, for a legend."""
    return [
        f"{name}: {row.n_cells:,} cells" + ("" if np.isnan(row.stability) else f", {row.stability:.2f} stable")
        for name, row in states.iterrows()
    ]


class _TreeBlock(Block):
    """The tree of states, and next to it the agreement of the models."""

    def __init__(self, states: pd.DataFrame, tree: pd.DataFrame, agreement: pd.DataFrame, colors: list[str]) -> None:
        self.states, self.tree, self.agreement, self.colors = states, tree, agreement, colors
        self.left, self.gap = MARGIN + 1.1, 1.0
        self.rows = max(PANEL, ROW * (len(tree) + 1))
        self.width = self.left + 2 * PANEL + self.gap + MARGIN
        self.height = TITLE + self.rows + 0.6

    @override
    def draw(self, figure: Figure, top: float) -> None:
        axis = add_axes(figure, self.left, top + TITLE, PANEL, self.rows)
        _draw_tree(axis, self.states, self.tree, self.colors)
        axis = add_axes(figure, self.left + PANEL + self.gap, top + TITLE, PANEL, PANEL)
        _draw_agreement(axis, self.agreement)


class _MarkerBlock(Block):
    """The compositions of the states as a heat map, with each gene relative to its highest value."""

    def __init__(self, compositions: pd.DataFrame, states: pd.DataFrame, colors: list[str]) -> None:
        self.compositions, self.states, self.colors = compositions, states, colors
        self.columns, self.rows = max(3.0, COLUMN * len(compositions)), max(1.0, ROW * len(states))
        self.names = LETTER * max(map(len, compositions.index), default=0)
        self.left = MARGIN + 0.8
        self.width = self.left + self.columns + 1.6
        self.height = TITLE + self.rows + self.names + MARGIN

    @override
    def draw(self, figure: Figure, top: float) -> None:
        axis = add_axes(figure, self.left, top + TITLE, self.columns, self.rows)
        image = _draw_markers(axis, self.compositions, self.states, self.colors)
        bar_axis = add_axes(figure, self.left + self.columns + 0.15, top + TITLE, 0.15, self.rows)
        bar = figure.colorbar(image, cax=bar_axis)
        bar.set_label("fraction of the counts,\nrelative to the highest", fontsize=FONT_SIZE)
        bar.ax.tick_params(labelsize=FONT_SIZE)


def _draw_tree(axis: Any, states: pd.DataFrame, tree: pd.DataFrame, colors: list[Any]) -> None:
    """Draw the merges from the components (left) to one state (right), in the colors of the chosen states."""
    state_of = {part: number for number, name in enumerate(states["components"]) for part in name.split("+")}
    final = "+".join([tree["first"].iloc[-1], tree["second"].iloc[-1]]) if len(tree) else "0"
    positions = {name: float(row) for row, name in enumerate(_leaves(final.split("+"), tree))}
    num_components = len(positions)
    starts = dict.fromkeys(positions, 0.0)
    leaves = dict(positions)
    for merge in tree.itertuples():
        parts = [str(merge.first), str(merge.second)]
        x = float(num_components - merge.num_states)
        names = {state_of[part] for part in "+".join(parts).split("+")}
        for part in parts:
            inside = {state_of[leaf] for leaf in part.split("+")}
            axis.plot(
                [starts[part], x], [positions[part]] * 2, color=colors[inside.pop()] if len(inside) == 1 else "0.3"
            )
        axis.plot([x, x], [positions[part] for part in parts], color=colors[names.pop()] if len(names) == 1 else "0.3")
        joined = "+".join(sorted("+".join(parts).split("+"), key=int))
        positions[joined], starts[joined] = float(np.mean([positions[part] for part in parts])), x
        axis.annotate(
            f"{merge.misclassification:.2g}",
            (x, positions[joined]),
            xytext=(2, 1),
            textcoords="offset points",
            fontsize=7,
        )
    cut = num_components - len(states)
    axis.axvline(cut + 0.5, color="0.6", linestyle="--", linewidth=1)
    for leaf, y in leaves.items():
        axis.plot([-0.15], [y], "o", color=colors[state_of[leaf]], markersize=5)
    labels = [f"{leaf}  (state {states.index[state_of[leaf]]})" for leaf in leaves]
    axis.set_yticks(list(leaves.values()), labels, fontsize=8)
    ticks = np.arange(num_components)
    axis.set_xticks(ticks, num_components - ticks)
    axis.set(xlabel="number of states", ylabel="component", title="tree, with probabilities of misclassification")
    axis.set_xlim(-0.4, num_components + 0.1)
    axis.invert_yaxis()


def _leaves(components: list[str], tree: pd.DataFrame) -> list[str]:
    """Return the components in an order without crossing branches."""
    order = {component: [component] for component in components}
    for first, second in zip(tree["first"], tree["second"], strict=True):
        joined = "+".join(sorted(f"{first}+{second}".split("+"), key=int))
        order[joined] = order[str(first)] + order[str(second)]
    return max(order.values(), key=len)


def _draw_agreement(axis: Any, agreement: pd.DataFrame) -> None:
    """Draw the agreement over the number of states; a single model does not have one."""
    numbers, values = agreement["num_states"], agreement["agreement"]
    chosen = agreement[agreement["chosen"]]
    axis.set(xlabel="number of states", ylabel="mean pairwise adjusted Rand index", title="agreement of the models")
    if values.isna().all():
        axis.text(0.5, 0.5, "unknown: a single model", ha="center", transform=axis.transAxes)
        axis.set(xticks=[], yticks=[])
        return
    axis.plot(numbers, values, "o-", color="0.3", markersize=4)
    axis.plot(chosen["num_states"], chosen["agreement"], "o", color="tab:red", markersize=9, label="chosen")
    axis.set_ylim(min(0.5, float(values.min()) - 0.05), 1.02)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, loc="lower left")


def _select_markers(markers: pd.DataFrame, num_states: int) -> list[str]:
    """Return the best marker genes of the chosen states, each once."""
    chosen = markers[(markers["num_states"] == num_states) & (markers["log2_fold_change"] > MIN_LOG2_RATIO)]
    genes = chosen.groupby("state", sort=True).head(NUM_MARKERS)["gene"]
    return list(dict.fromkeys(genes))


def _draw_markers(axis: Any, compositions: pd.DataFrame, states: pd.DataFrame, colors: list[Any]) -> Any:
    """Draw the compositions as a heat map with a row per state, each gene relative to its highest value."""
    values = compositions.to_numpy().T
    image = axis.imshow(values / values.max(0, initial=1e-12), aspect="auto", cmap="viridis", vmin=0, vmax=1)
    axis.set_yticks(range(len(states)), [f"state {name}" for name in states.index], fontsize=8)
    for tick, color in zip(axis.get_yticklabels(), colors, strict=True):
        tick.set_color(color)
    axis.set_xticks(range(values.shape[1]), list(map(as_text, compositions.index)), rotation=90, fontsize=7)
    axis.set_title("marker genes")
    return image
