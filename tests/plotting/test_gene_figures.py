"""Figures of the commands for cells: what they show, and that they hold for odd cells."""

from __future__ import annotations

import io

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from vaekit.plotting import embedding_figures, gene_figures
from vaekit.plotting.expression_figures import plot_cells
from vaekit.plotting.gene_figures import plot_gene_means, plot_genes, plot_markers
from vaekit.plotting.names import label_points
from vaekit.plotting.transfer_figures import plot_transferred_labels

GENES = ["a", "b", "c", "d"]


@pytest.fixture(autouse=True)
def quick_umap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_figures, "umap_coordinates", lambda points, seed=0: points[:, :2])


def draw(figure: Figure) -> None:
    figure.savefig(io.BytesIO(), format="png", dpi=50)


def test_gene_means_omit_genes_without_counts_and_name_the_others() -> None:
    figure = plot_gene_means(np.array([1.0, 2.0, 0.0, 4.0]), np.array([1.0, 8.0, 1.0, 4.0]), GENES)
    (axis,) = figure.axes
    assert axis.collections[0].get_offsets().tolist() == [[1, 1], [2, 8], [4, 4]]
    assert axis.texts[0].get_text() == "b"  # the largest difference
    assert "3 genes" in axis.get_title()
    draw(figure)
    draw(plot_gene_means(np.zeros(4), np.zeros(4), GENES))


def test_genes_on_the_umap(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    tables = {kind: pd.DataFrame(rng.poisson(2.0, (50, 4)), columns=GENES) for kind in ("counts", "denoised")}
    figure = plot_genes(rng.normal(size=(50, 3)), tables)
    panels = [axis for axis in figure.axes if axis.get_title()]
    assert [axis.get_title() for axis in panels] == [f"{gene}, {kind}" for gene in GENES for kind in tables]
    values = np.log1p(tables["denoised"]["b"].to_numpy())
    drawn = np.asarray(panels[3].collections[0].get_facecolors())
    order = np.random.default_rng(0).permutation(50)
    scale = mpl.colors.Normalize(0, np.quantile(values, 0.99))
    np.testing.assert_allclose(drawn, mpl.colormaps["viridis"](scale(values[order])))
    (bar,) = panels[3].child_axes
    assert bar.get_ylabel() == "log(1 + expression)"
    draw(figure)
    monkeypatch.setattr(gene_figures, "MAX_GENES", 2)
    assert len([axis for axis in plot_genes(rng.normal(size=(50, 3)), tables).axes if axis.get_title()]) == 4


def test_transferred_labels_are_sorted_by_their_number_of_cells() -> None:
    labels = pd.Categorical(["T", "B", "T", "T", "B", "NK"], categories=["B", "DC", "NK", "T"])
    uncertainty = np.array([0.1, 0.5, 0.2, 0.3, 0.9, 0.0])
    columns = {"batch": pd.Categorical(list("aabbab")), "score": np.arange(6.0)}
    latents = np.random.default_rng(0).normal(size=(6, 2))
    figure = plot_transferred_labels(latents, labels, uncertainty, columns, title="new.h5ad", colors={"T": "#ff0000"})
    *panels, bars = figure.axes
    assert [axis.get_title() for axis in panels] == ["transferred label", "uncertainty", "batch", "score"]
    assert [text.get_text() for text in bars.get_yticklabels()] == ["T (3)", "B (2)", "NK (1)"]
    medians = [float(line.get_xdata()[0]) for line in bars.lines if line.get_marker() == "|"]
    assert medians == pytest.approx([0.2, 0.7, 0.0])
    entries = panels[0].get_legend()
    assert [text.get_text() for text in entries.get_texts()] == ["B", "NK", "T"]
    assert entries.legend_handles[2].get_markerfacecolor() == "#ff0000"
    assert panels[1].child_axes[0].get_ylim() == (0, 1)
    assert figure.get_suptitle() == "new.h5ad: UMAP of the latents, all 6 observations"
    draw(figure)


def test_columns_of_the_user_stay_next_to_results_of_the_same_name() -> None:
    labels, values = pd.Categorical(list("TTB")), np.arange(3.0)
    columns = {"transferred label": pd.Categorical(list("xyz")), "uncertainty": values}
    figure = plot_transferred_labels(np.random.default_rng(0).normal(size=(3, 2)), labels, values / 3, columns)
    titles = [axis.get_title() for axis in figure.axes[:4]]
    assert titles == ["transferred label (model)", "uncertainty (model)", "transferred label", "uncertainty"]


def test_markers_show_each_gene_in_every_code() -> None:
    rows = [("2", 0.7, 70, gene, value) for gene, value in zip("abcd", (3.0, 1.0, 0.0, -1.0), strict=True)]
    rows += [("10", 0.3, 30, gene, value) for gene, value in zip("dcba", (2.0, 1.0, 0.0, -2.0), strict=True)]
    table = pd.DataFrame(rows, columns=["code", "usage", "n_cells", "gene", "log2_fold_change"])
    axis, bar = plot_markers(table, n_genes=2).axes
    assert [text.get_text() for text in axis.get_yticklabels()] == ["2 (70 cells)", "10 (30 cells)"]
    assert [text.get_text() for text in axis.get_xticklabels()] == ["a", "b", "d", "c"]
    assert np.asarray(axis.images[0].get_array()).tolist() == [[3, 1, -1, 0], [-2, 0, 2, 1]]
    assert bar.get_ylabel() == "log2 fold change"
    draw(plot_markers(table.groupby("code", sort=False).head(1)))  # without the other combinations


def test_names_of_points_cover_neither_each_other_nor_the_edges() -> None:
    figure = Figure(figsize=(6, 5), layout="constrained")
    axis = figure.subplots()
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=60), np.full(60, 16.0)
    y[:30] = rng.uniform(0, 16, 30)
    axis.scatter(x, y)
    axis.set(xlim=axis.get_xlim(), ylim=axis.get_ylim())
    names = [f"RP11-{number}J15.5" for number in range(60)]
    labeled = label_points(axis, x, y, names, np.argsort(-x), 20)
    assert labeled[0] == x.argmax()
    assert 5 < len(labeled) <= 20
    figure.savefig(io.BytesIO(), format="png")
    boxes = [text.get_window_extent() for text in axis.texts]
    assert not any(box.overlaps(other) for number, box in enumerate(boxes) for other in boxes[number + 1 :])
    assert max(box.x1 for box in boxes) <= axis.get_window_extent().x1


def test_names_of_small_groups_in_a_heat_map_and_its_title_are_apart() -> None:
    groups = pd.Categorical(["a"] * 500 + ["b"] * 2 + ["c"] * 2 + ["d"] * 2 + ["e"] * 500)
    expression = pd.DataFrame(np.random.default_rng(0).poisson(1.0, (1006, 4)), columns=GENES)
    genes = {"a long name of a group": ["a"], "b": ["b", "c"], "e": ["d"]}
    figure = plot_cells(expression, groups, genes, "group", "title")
    figure.savefig(io.BytesIO(), format="png")
    axis = next(axis for axis in figure.axes if axis.get_ylabel() == "group")
    boxes = [text.get_window_extent() for text in axis.get_yticklabels()]
    assert [text.get_text() for text in axis.get_yticklabels()] == list("abcde")
    assert not any(box.overlaps(other) for number, box in enumerate(boxes) for other in boxes[number + 1 :])
    tops = [text.get_window_extent().y1 for axis in figure.axes for text in axis.texts]
    assert figure._suptitle.get_window_extent().y0 >= max(tops)
    assert "log(1 + counts per 10,000)" in {axis.get_ylabel() for axis in figure.axes}
