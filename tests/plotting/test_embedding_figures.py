"""Figures of latents: what panels, colors and legends stand for."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from vaekit.diagnostics import most_probable_codes
from vaekit.latents import Categorical
from vaekit.plotting import embedding_figures, plot_embedding, plot_latents, plot_topics
from vaekit.plotting.embedding_figures import category_colors


def points(count: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 2))


def legend(figure: Figure, panel: int) -> tuple[list[str], list[tuple[float, ...]]]:
    """Return names and colors of a legend."""
    entries = figure.axes[panel].get_legend()
    names = [text.get_text() for text in entries.get_texts()]
    return names, [to_rgba(handle.get_markerfacecolor()) for handle in entries.legend_handles]


def test_colors_and_legend_follow_the_order_of_the_categories() -> None:
    codes = most_probable_codes(Categorical(12), torch.nn.functional.one_hot(torch.arange(12).flip(0), 12).float())
    labels = pd.Categorical(["mid", "low", None] * 4, ["low", "mid", "never"], ordered=True)
    figure = plot_embedding(points(12), {"code": codes, "label": labels})
    assert [axis.get_title() for axis in figure.axes] == ["code", "label"]
    assert legend(figure, 0)[0] == [str(number) for number in range(12)]
    assert legend(figure, 1)[0] == ["low", "mid", "unknown"]
    assert len(set(legend(figure, 0)[1])) == 12


def test_each_point_has_the_color_of_its_category() -> None:
    coordinates, values = points(50), pd.Categorical(list("abcde") * 10)
    dots = plot_embedding(coordinates, {"label": values}).axes[0].collections[0]
    colors = {tuple(xy): color for xy, color in zip(dots.get_offsets().tolist(), dots.get_facecolors(), strict=True)}
    palette = category_colors(values.categories)
    for xy, code in zip(coordinates.tolist(), values.codes, strict=True):
        np.testing.assert_allclose(colors[tuple(xy)], to_rgba(palette[code]))


def test_no_category_covers_the_others() -> None:
    values = pd.Categorical(["first"] * 500 + ["last"] * 500)
    dots = plot_embedding(points(1000), {"label": values}).axes[0].collections[0]
    is_last = (dots.get_facecolors() == to_rgba(category_colors(["first", "last"])[1])).all(1)
    assert 0.4 < is_last[:500].mean() < 0.6


def test_a_code_keeps_its_color_where_other_codes_do_not_occur() -> None:
    every = dict(zip(map(str, range(30)), category_colors(list(map(str, range(30)))), strict=True))
    assert len(set(every.values())) == 30
    assert category_colors(["3", "17", "29"]) == [every[code] for code in ("3", "17", "29")]
    assert category_colors(["B", "T"]) == category_colors(["0", "1"])


@pytest.mark.parametrize("count", [20, 2000, 100_000])
def test_markers_of_the_legend_have_one_size_for_any_number_of_points(count: int) -> None:
    figure = plot_embedding(points(count), {"label": pd.Categorical(["a", "b"] * (count // 2))})
    assert {handle.get_markersize() for handle in figure.axes[0].get_legend().legend_handles} == {6.0}
    dots = figure.axes[0].collections[0]
    assert len(dots.get_offsets()) == count
    assert dots.get_rasterized()  # an SVG or PDF does not contain 100,000 shapes


def test_many_categories_have_columns_and_the_largest_are_named() -> None:
    names = [f"type {number}" for number in range(80)]
    values = pd.Categorical(np.repeat(names, np.arange(1, 81)), names)
    figure = plot_embedding(points(len(values)), {"label": values, "batch": pd.Categorical(["x"] * len(values))})
    shown = legend(figure, 0)[0]
    assert shown == [*names[20:], "20 smaller ones"]
    assert figure.axes[0].get_legend()._ncols == 4
    figure.savefig(BytesIO(), format="png")
    width = figure.get_figwidth() * figure.dpi
    boxes = [axis.get_tightbbox() for axis in figure.axes]
    assert boxes[0].x1 <= boxes[1].x0, "a legend covers the next panel"
    assert boxes[1].x1 <= width, "a legend is cut off"
    panels = [axis.get_window_extent().size for axis in figure.axes]
    np.testing.assert_allclose(panels[0], panels[1])


def test_long_names_are_shortened() -> None:
    figure = plot_embedding(points(2), {"label": pd.Categorical(["a" * 200, "b"])})
    assert max(map(len, legend(figure, 0)[0])) == 30


def test_panels_without_columns_and_in_several_rows() -> None:
    assert len(plot_embedding(points(3), {}, "cells").axes) == 1
    columns = {f"code y: {number}": pd.Categorical(["0", "1", "1"]) for number in range(6)}
    positions = [axis.get_position() for axis in plot_embedding(points(3), columns).axes]
    assert len({round(position.y0, 6) for position in positions}) == 2
    assert all(p.x0 > 0 and p.x1 < 1 and p.y0 > 0 and p.y1 < 1 for p in positions)


def test_more_points_than_a_umap_shows_are_sampled_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_figures, "umap_coordinates", lambda latents: latents[:, :2])
    monkeypatch.setattr(embedding_figures, "MAX_UMAP_POINTS", 1000)
    latents = np.stack([np.arange(10_000.0), np.zeros(10_000)], 1)
    figure = plot_latents(latents, {"label": pd.Categorical(np.where(latents[:, 0] < 2500, "a", "b"))}, "cells.h5ad")
    assert figure.get_suptitle() == "cells.h5ad: UMAP of the latents, 1000 of 10000 observations"
    shown = figure.axes[0].collections[0].get_offsets()[:, 0]
    assert len(np.unique(shown)) == 1000
    assert 0.2 < (shown < 2500).mean() < 0.3


def test_topics_are_bars_of_mean_proportions() -> None:
    proportions = np.random.default_rng(0).dirichlet(np.ones(3), 6)
    groups = pd.Categorical(["b", "a", "b", None, "a", "b"], ["b", "never", "a"])
    figure = plot_topics(proportions, groups, points(6))
    bars, *panels = figure.axes
    assert [text.get_text() for text in bars.get_yticklabels()] == ["b (3)", "a (2)", "unknown (1)"]
    widths = np.array([[bar.get_width() for bar in container] for container in bars.containers])
    np.testing.assert_allclose(widths[:, 0], proportions[[0, 2, 5]].mean(0))
    np.testing.assert_allclose(widths[:, 2], proportions[3])
    ends = [bar.get_x() + bar.get_width() for bar in bars.containers[-1]]
    np.testing.assert_allclose(ends, 1)
    assert [panel.get_title() for panel in panels] == ["topic 0", "topic 1", "topic 2"]
    for topic, panel in enumerate(panels):
        np.testing.assert_allclose(np.sort(panel.collections[0].get_array()), np.sort(proportions[:, topic]))
    assert len(plot_topics(proportions, groups).axes) == 1
