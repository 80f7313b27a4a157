"""Figures of latents: what panels, colors and legends stand for."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import torch
from anndata import AnnData
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from vaekit.diagnostics import most_probable_codes
from vaekit.exceptions import DataError
from vaekit.latents import Categorical
from vaekit.plotting import embedding_figures, encode_figure, plot_embedding, plot_latents, plot_topics
from vaekit.plotting.palettes import MISSING_COLOR, PALETTE, category_colors
from vaekit.plotting.points import dot_size, sample_points


def points(count: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 2))


def legend(figure: Figure, panel: int) -> tuple[list[str], list[tuple[float, ...]]]:
    """Return names and colors of a legend."""
    entries = figure.axes[panel].get_legend()
    names = [text.get_text() for text in entries.get_texts()]
    return names, [to_rgba(handle.get_markerfacecolor()) for handle in entries.legend_handles]


def dots(figure: Figure, panel: int = 0) -> dict[tuple[float, float], tuple[float, ...]]:
    """Return the color of each point by its coordinates, in the order of drawing."""
    drawn = figure.axes[panel].collections[0]
    places = map(tuple, drawn.get_offsets().tolist())
    return dict(zip(places, map(tuple, drawn.get_facecolors().tolist()), strict=True))


def test_colors_and_legend_follow_the_order_of_the_categories() -> None:
    codes = most_probable_codes(Categorical(12), torch.nn.functional.one_hot(torch.arange(12).flip(0), 12).float())
    labels = pd.Categorical(["mid", "low", None] * 4, ["low", "mid", "never"], ordered=True)
    figure = plot_embedding(points(12), {"code": codes, "label": labels})
    assert [axis.get_title() for axis in figure.axes] == ["code", "label"]
    assert legend(figure, 0)[0] == [str(number) for number in range(12)]
    assert legend(figure, 1)[0] == ["low", "mid", "missing"]
    assert legend(figure, 1)[1][2] == to_rgba(MISSING_COLOR)
    assert len(set(legend(figure, 0)[1])) == 12


def test_each_point_has_the_color_of_its_category() -> None:
    coordinates, values = points(50), pd.Categorical(list("abcde") * 10)
    colors = dots(plot_embedding(coordinates, {"label": values}))
    palette = category_colors(values.categories)
    for xy, code in zip(coordinates.tolist(), values.codes, strict=True):
        np.testing.assert_allclose(colors[tuple(xy)], to_rgba(palette[code]))


def test_no_category_covers_the_others_and_missing_points_lie_below() -> None:
    coordinates = points(1500)
    values = pd.Categorical(["first"] * 500 + ["last"] * 500 + [None] * 500)
    colors = list(dots(plot_embedding(coordinates, {"label": values})).values())
    assert colors[:500] == [to_rgba(MISSING_COLOR)] * 500
    is_last = np.array([color == to_rgba(category_colors(["first", "last"])[1]) for color in colors[500:]])
    assert 0.4 < is_last[:500].mean() < 0.6


def test_a_tiny_category_lies_above_with_larger_dots() -> None:
    names = ["common"] * 1997 + ["rare"] * 3
    drawn = plot_embedding(points(2000), {"label": pd.Categorical(names)}).axes[0].collections[0]
    rare = to_rgba(category_colors(["common", "rare"])[1])
    assert [tuple(color) for color in drawn.get_facecolors()[-3:]] == [rare] * 3
    assert drawn.get_sizes()[-3:].min() >= 2 * drawn.get_sizes()[0]


def test_a_category_keeps_its_color_where_others_do_not_occur() -> None:
    names = [str(number) for number in range(30)]
    every = plot_embedding(points(30), {"code y": pd.Categorical(names, names)})
    some = plot_embedding(points(3), {"code y": pd.Categorical(["3", "17", "29"], names)})
    colors = dict(zip(*legend(every, 0), strict=True))
    assert dict(zip(*legend(some, 0), strict=True)) == {code: colors[code] for code in ("3", "17", "29")}
    bars = plot_topics(np.eye(30)[:4], pd.Categorical(list("aabb"))).axes[0]
    assert [container[0].get_facecolor() for container in bars.containers] == [colors[name] for name in names]


def test_chosen_colors_replace_those_of_the_list_except_invalid_ones() -> None:
    chosen = {"label": {"a": "#123456", "b": "no color", "other": "red"}}
    figure = plot_embedding(points(6), {"label": pd.Categorical(list("abcabc"))}, palettes=chosen)
    assert legend(figure, 0)[1] == [to_rgba("#123456"), to_rgba(PALETTE[1]), to_rgba(PALETTE[2])]


def _oklab(color: str, matrix: np.ndarray) -> np.ndarray:
    """Return a color in OKLab after a linear change of its linear RGB values (Ottosson 2020)."""
    rgb = np.array(to_rgba(color)[:3])
    linear = np.clip(matrix @ np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4), 0, 1)
    cones = np.cbrt(np.array([[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]]) @ linear)
    return np.array([[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]]) @ cones


def test_colors_differ_in_normal_and_in_red_green_deficient_vision() -> None:
    protanopia = np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]])  # Machado 2009
    deuteranopia = np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]])

    def smallest(colors: list[str], matrix: np.ndarray) -> float:
        lab = np.stack([_oklab(color, matrix) for color in colors])
        distances = np.linalg.norm(lab[:, None] - lab, axis=-1)
        return float(distances[np.triu_indices(len(colors), 1)].min())

    import matplotlib as mpl

    tab10 = [mpl.colormaps["tab10"](index) for index in range(10)]
    for matrix in (protanopia, deuteranopia):
        assert smallest([*PALETTE[:10], "white", MISSING_COLOR], matrix) > 1.5 * smallest(tab10, matrix)
    assert smallest(list(PALETTE[:40]), np.eye(3)) > 0.05  # two just noticeably different colors: 0.02
    assert len(set(PALETTE)) == 96


@pytest.mark.parametrize("count", [20, 2000, 100_000])
def test_markers_of_the_legend_have_one_size_for_any_number_of_points(count: int) -> None:
    figure = plot_embedding(points(count), {"label": pd.Categorical(["a", "b"] * (count // 2))})
    assert {handle.get_markersize() for handle in figure.axes[0].get_legend().legend_handles} == {6.0}
    drawn = figure.axes[0].collections[0]
    assert len(drawn.get_offsets()) == count
    assert drawn.get_rasterized()  # an SVG or PDF does not contain 100,000 shapes


def test_dots_become_smaller_with_their_number() -> None:
    sizes = [dot_size(count) for count in (10, 1000, 5000, 20_000, 10**6)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] <= 20
    assert sizes[-1] > 0.5


def test_vector_graphics_contain_points_as_one_image_and_text_as_text() -> None:
    columns = {"cell type": pd.Categorical(["B", "T"] * 5000), "score": np.arange(10_000.0)}
    figure = plot_embedding(points(10_000), columns)
    svg = encode_figure(figure, "svg")
    assert len(svg) < 2_000_000
    assert b"cell type</text>" in svg
    assert svg.count(b"<image") == 2 + 1  # and the color bar
    assert svg == encode_figure(figure, "svg")
    assert encode_figure(figure, "pdf")[:5] == b"%PDF-"
    assert encode_figure(figure)[:4] == b"\x89PNG"
    with pytest.raises(DataError, match="form='jpg' must be"):
        encode_figure(figure, "jpg")  # type: ignore[arg-type]


def test_numbers_have_a_color_bar_with_their_unit_and_gray_points_are_named() -> None:
    values = np.linspace(0, 1, 1000)
    values[-1], values[:10] = 1e6, np.nan  # an outlier does not determine the scale
    figure = plot_embedding(points(1000), {"score": values}, units={"score": "mg"})
    (bar,) = figure.axes[0].child_axes
    assert bar.get_ylabel() == "mg"
    assert bar.get_ylim()[1] < 1.01
    assert legend(figure, 0)[0] == ["missing"]
    assert list(dots(figure).values())[:10] == [to_rgba(MISSING_COLOR)] * 10
    plot_embedding(points(5), {"empty": np.full(5, np.nan), "constant": np.ones(5)}).savefig(BytesIO())


def check_layout(figure: Figure) -> None:
    """Check that no text or legend of a panel covers another panel or leaves the figure."""
    figure.savefig(BytesIO(), format="png", dpi=100)
    boxes = [axis.get_tightbbox() for axis in figure.axes]
    for number, box in enumerate(boxes):
        assert min(box.x0, box.y0) >= 0
        assert box.x1 <= figure.get_figwidth() * figure.dpi
        assert box.y1 <= figure.get_figheight() * figure.dpi
        assert not any(box.overlaps(other) for other in boxes[number + 1 :])


def test_many_categories_have_columns_and_the_largest_are_named() -> None:
    names = [f"type {number}" for number in range(80)]
    values = pd.Categorical(np.repeat(names, np.arange(1, 81)), names)
    long = values.rename_categories([f"{name} of a long and detailed ontology of cells" for name in names])
    columns = {"label": values, "batch": pd.Categorical(["x"] * len(values)), "long": long, "n": values.codes * 1e9}
    figure = plot_embedding(points(len(values)), columns, "cells.h5ad", units={"n": "log(1 + counts per 10,000)"})
    shown = legend(figure, 0)[0]
    assert shown == [*names[20:], "20 smaller ones"]
    assert len(set(legend(figure, 2)[0])) == 61
    assert figure.axes[0].get_legend()._ncols == 3
    check_layout(figure)
    panels = [axis.get_window_extent().size for axis in figure.axes]
    np.testing.assert_allclose(panels, np.broadcast_to(panels[0], (4, 2)))  # no legend makes a panel smaller


def test_long_names_are_shortened() -> None:
    figure = plot_embedding(points(2), {"label": pd.Categorical(["a" * 200, "b"])})
    assert max(map(len, legend(figure, 0)[0])) == 30


def test_panels_without_columns_and_in_several_rows() -> None:
    (axis,) = plot_embedding(points(3), {}, "cells").axes
    assert axis.get_legend() is None
    columns = {f"code y: {number}": pd.Categorical(["0", "1", "1"]) for number in range(6)}
    figure = plot_embedding(points(3), columns)
    assert len({round(axis.get_position().y0, 6) for axis in figure.axes}) == 2
    check_layout(figure)


def test_samples_show_every_category_and_are_else_even() -> None:
    rng = np.random.default_rng(0)
    rare = np.full(100_000, "common", dtype=object)
    rare[rng.choice(100_000, 8, replace=False)] = "rare"
    rare[rng.choice(100_000, 200, replace=False)] = "seldom"
    columns = [pd.Categorical(rare), pd.Categorical(rng.choice(list("abc"), 100_000))]
    index = sample_points(100_000, columns)
    assert len(np.unique(index)) == 20_000
    np.testing.assert_array_equal(index, np.sort(index))
    counts = columns[0][index].value_counts()
    assert counts["rare"] == (rare == "rare").sum()
    assert counts["seldom"] >= 30
    fractions = columns[1][index].value_counts() / 20_000
    np.testing.assert_allclose(fractions, columns[1].value_counts() / 100_000, atol=0.01)
    np.testing.assert_array_equal(index, sample_points(100_000, columns))
    many = pd.Categorical.from_codes(np.arange(100_000), list(map(str, range(100_000))))
    assert len(sample_points(100_000, [many])) == 20_000
    assert sample_points(5, columns).tolist() == [0, 1, 2, 3, 4]


def test_a_umap_of_a_sample_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_figures, "umap_coordinates", lambda latents: latents[:, :2])
    monkeypatch.setattr("vaekit.plotting.points.MAX_POINTS", 1000)
    latents = np.stack([np.arange(10_000.0), np.zeros(10_000)], 1)
    figure = plot_latents(latents, {"label": pd.Categorical(np.where(latents[:, 0] < 2500, "a", "b"))}, "cells.h5ad")
    assert figure.get_suptitle() == "cells.h5ad: UMAP of the latents, 1,000 of 10,000 observations"
    shown = figure.axes[0].collections[0].get_offsets()[:, 0]
    assert len(np.unique(shown)) == 1000
    assert 0.2 < (shown < 2500).mean() < 0.3


def test_the_umap_of_the_same_points_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[AnnData] = []

    def umap(cells: AnnData, random_state: int) -> None:
        computed.append(cells)
        cells.obsm["X_umap"] = cells.X[:, :2] + random_state

    monkeypatch.setattr(sc.tl, "umap", umap)
    monkeypatch.setattr(embedding_figures, "_neighbors", lambda cells, seed: AnnData(cells))
    monkeypatch.setattr(embedding_figures, "_remembered", {})
    latents = points(40)
    embedding_figures.umap_coordinates(latents)[:] = 0  # the caller's array
    np.testing.assert_allclose(embedding_figures.umap_coordinates(latents.copy()), latents, rtol=1e-6)
    assert len(computed) == 1
    np.testing.assert_allclose(embedding_figures.umap_coordinates(latents, seed=3), latents + 3, rtol=1e-6)
    for shift in range(1, 6):
        embedding_figures.umap_coordinates(latents + shift)
    assert len(computed) == 7
    assert len(embedding_figures._remembered) == 4


def test_topics_are_bars_of_mean_proportions() -> None:
    proportions = np.random.default_rng(0).dirichlet(np.ones(3), 6)
    groups = pd.Categorical(["b", "a", "b", None, "a", "b"], ["b", "never", "a"])
    figure = plot_topics(proportions, groups, points(6))
    bars, *panels = figure.axes
    assert [text.get_text() for text in bars.get_yticklabels()] == ["b (3)", "a (2)", "missing (1)"]
    widths = np.array([[bar.get_width() for bar in container] for container in bars.containers])
    np.testing.assert_allclose(widths[:, 0], proportions[[0, 2, 5]].mean(0))
    np.testing.assert_allclose(widths[:, 2], proportions[3])
    ends = [bar.get_x() + bar.get_width() for bar in bars.containers[-1]]
    np.testing.assert_allclose(ends, 1)
    assert legend(figure, 0)[0] == ["0", "1", "2"]
    assert [panel.get_title()[:7] for panel in panels] == ["topic 0", "topic 1", "topic 2"]
    for topic, panel in enumerate(panels):
        np.testing.assert_allclose(np.sort(panel.collections[0].get_array()), np.sort(proportions[:, topic]))
    check_layout(figure)
    assert len(plot_topics(proportions, groups).axes) == 1


@pytest.mark.parametrize("groups", [pd.Categorical(["a", "b"] * 50), None])
def test_latents_and_topics_share_a_figure(monkeypatch: pytest.MonkeyPatch, groups: pd.Categorical | None) -> None:
    monkeypatch.setattr(embedding_figures, "umap_coordinates", lambda latents: latents[:, :2])
    monkeypatch.setattr("vaekit.plotting.points.MAX_POINTS", 60)
    proportions = np.random.default_rng(0).dirichlet(np.ones(4), 100)
    figure = plot_latents(points(100), {"n": np.arange(100.0)}, topics={"topics": proportions}, groups=groups)
    titles = [axis.get_title() for axis in figure.axes]
    assert titles[:2] == ["n", "topics: mean proportions per group (observations)"]
    assert [title[:7] for title in titles[2:]] == [f"topic {topic}" for topic in range(4)]
    names = [text.get_text() for text in figure.axes[1].get_yticklabels()]
    assert (names == ["a (50)", "b (50)"]) == (groups is not None)  # bars contain all observations
    assert len(figure.axes[2].collections[0].get_offsets()) == 60
    check_layout(figure)
