"""Columns that color cells in figures: kinds of values, stable categories, the user's colors, and wrong names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from vaekit.data import GeneExpressionData, ImageData, open_counts
from vaekit.data.cells.color_columns import known_categories, read_color_columns
from vaekit.exceptions import DataError

COLORS = ["#111111", "#222222", "#333333"]


@pytest.fixture
def cells() -> AnnData:
    counts = np.random.default_rng(0).poisson(2.0, (12, 4)).astype(np.float32)
    obs = pd.DataFrame(
        {
            "type": pd.Categorical(["T", "B", None, "T"] * 3, ["B", "T", "never"]),
            "donor": ["d10", "d2", "d10", "d1"] * 3,
            "score": [np.nan, 1.5, np.inf, -2.0] * 3,
            "cluster": [1, 0, 1, 2] * 3,
            "good": [True, False] * 6,
        },
        index=[f"c{number}" for number in range(12)],
    )
    var = pd.DataFrame(index=["A", "B", "C", "donor"])
    return AnnData(sparse.csr_matrix(counts), obs=obs, var=var, uns={"type_colors": np.array(COLORS, dtype=object)})


@pytest.fixture(params=["memory", "file"])
def source(request: pytest.FixtureRequest, cells: AnnData, tmp_path: Path):
    if request.param == "memory":
        return open_counts(cells)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    return open_counts(tmp_path / "cells.h5ad", mode="backed")


def test_numbers_categories_and_genes(source, cells: AnnData) -> None:
    values, palettes, units = read_color_columns(source, ["type", "donor", "score", "good", "C"], ["cluster", "absent"])
    assert list(values) == ["cluster", "type", "donor", "score", "good", "C"]
    assert values["cluster"].categories.tolist() == ["0", "1", "2"]  # a batch or label is a category
    assert values["type"].categories.tolist() == ["B", "T"]
    assert values["type"].codes.tolist()[:4] == [1, 0, -1, 1]
    assert values["donor"].categories.tolist() == ["d1", "d2", "d10"]  # not the gene of this name
    np.testing.assert_array_equal(values["score"], cells.obs["score"])
    assert values["good"].categories.tolist() == ["False", "True"]
    counts = cells.X.toarray()
    np.testing.assert_allclose(values["C"], np.log1p(1e4 * counts[:, 2] / counts.sum(1)), rtol=1e-6)
    assert palettes == {"type": dict(zip(["B", "T", "never"], COLORS, strict=True))}
    assert units == {"C": "log(1 + counts per 10,000)"}
    assert read_color_columns(source, "cluster").values["cluster"].dtype == np.float64


def test_known_categories_come_first_and_colors_of_the_cells_win(source) -> None:
    trained = {"type": {"B": "red", "NK": "blue"}}
    values, palettes, _ = read_color_columns(source, ["type", "donor"], known={"donor": ["d2", "d7"]}, trained=trained)
    assert values["donor"].categories.tolist() == ["d2", "d7", "d1", "d10"]
    assert palettes["type"]["B"] == COLORS[0]
    assert palettes["type"]["NK"] == "blue"


def test_fewer_colors_than_categories_are_ignored(cells: AnnData) -> None:
    cells.uns["type_colors"] = COLORS[:2]
    assert read_color_columns(open_counts(cells), ["type"]).palettes == {}


@pytest.mark.parametrize(
    ("color", "message"),
    [
        (["typ"], r"color='typ' not found among the columns of .obs and the genes of .*Did you mean 'type'\?"),
        (["type", "type"], "color names 'type' twice"),
    ],
)
def test_wrong_names(source, color: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_color_columns(source, color)


def test_training_data_and_their_registry(cells: AnnData) -> None:
    data = GeneExpressionData(cells, batch_key="cluster", label_key="type")
    values, palettes, units = data.figure_columns(["score", "A"])
    assert list(values) == ["cluster", "type", "score", "A"]
    assert palettes["type"]["B"] == COLORS[0]
    assert list(units) == ["A"]
    registry = data.state_dict()
    assert registry["colors"] == palettes
    assert known_categories(registry) == {"cluster": ["0", "1", "2"], "type": ["B", "T"]}
    with pytest.raises(DataError, match=r"color='size': .* has labels only"):
        ImageData().figure_columns(["size"])
