"""Fields of an AnnData with results: types, order, and fields of the user, which are never replaced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from models.tiny import MODELS, adata, trainer

from vaekit.analysis import (
    differential_expression,
    embed,
    markers,
    normalized_expression,
    posterior_predictive_check,
    transfer_labels,
)
from vaekit.data import GeneExpressionData
from vaekit.exceptions import DataError
from vaekit.likelihoods import NegativeBinomial
from vaekit.models import VAE
from vaekit.models.vae_networks import VAENetworks

GROUP = np.arange(60) % 3


@pytest.fixture(scope="module")
def model() -> VAE:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        data = GeneExpressionData(adata(cells=60, genes=15), batch_key="batch")
        model = MODELS["mixed"](NegativeBinomial(), data.features, covariates=data.covariates)
        trainer(max_epochs=1, limit_val_batches=0).fit(model, datamodule=data)
    return model.eval()


@pytest.fixture
def cells() -> AnnData:
    return adata(cells=60, genes=15)


COLUMNS: dict[str, Any] = {
    "int64": GROUP * 10,
    "uint8": GROUP.astype(np.uint8),
    "float64": GROUP / 2,
    "float32": (GROUP / 10).astype(np.float32),
    "missing": np.where(GROUP == 0, np.nan, GROUP),
    "bool": GROUP == 1,
    "Int64": pd.array([10, None, -2], dtype="Int64")[GROUP],
    "Float64": pd.array([0.5, None, 2.0], dtype="Float64")[GROUP],
    "boolean": pd.array([True, None, False], dtype="boolean")[GROUP],
    "string": pd.array(["b", None, "a"], dtype="string")[GROUP],
    "object": np.array(["b", None, "a"], dtype=object)[GROUP],
    "ordered": pd.Categorical.from_codes(GROUP, ["low", "middle", "high"], ordered=True),
    "unsorted": pd.Categorical.from_codes(GROUP, ["c", "b", "a", "none of the cells"]),
    "numbers": pd.Categorical.from_codes(GROUP, [10, 2, 33]),
    "dates": pd.to_datetime(["2020-02-01", "2021-05-05", "2019-01-01"])[GROUP],
    "intervals": pd.cut(GROUP, [-1, 0, 1, 2]),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_labels_keep_their_type_and_order(model: VAE, cells: AnnData, kind: str) -> None:
    """Each cell is its nearest neighbor, so its label does not change."""
    cells.obs["label"] = COLUMNS[kind]
    query = cells.copy()
    transfer_labels(cells, query, model, "label", n_neighbors=1)
    result, expected = query.obs["label_transferred"], cells.obs["label"]
    labeled = expected.notna().to_numpy()
    assert (result.astype(object) == expected.astype(object))[labeled].all()
    if isinstance(expected.dtype, pd.CategoricalDtype):
        assert result.dtype == expected.dtype
    else:
        assert result.cat.categories.tolist() == sorted(set(expected[labeled]))
        assert kind == "string" or result.cat.categories.dtype == expected.dtype


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("int64", ("10", "10.0", 10, 10.0, np.int64(10))),
        ("float64", ("0.5", "0.50", ".5", 0.5)),
        ("float32", ("0.1", 0.1, np.float32(0.1))),
        ("missing", ("1", "1.0", 1, 1.0)),
        ("bool", ("True", "true", "TRUE", True, np.bool_(True))),
        ("Int64", ("10", "10.0", 10)),
        ("Float64", ("2", "2.0", 2, 2.0)),
        ("boolean", ("true", True)),
        ("numbers", ("2", 2, 2.0, "2.0")),
    ],
)
def test_groups_are_named_by_their_value(model: VAE, cells: AnnData, kind: str, names: tuple[Any, ...]) -> None:
    cells.obs["group"] = COLUMNS[kind]
    cells = cells[cells.obs["group"].notna().to_numpy()].copy()
    first, *others = (
        differential_expression(cells, model, "group", name, num_samples=1).drop(columns=["comparison", "group1"])
        for name in names
    )
    for table in others:
        pd.testing.assert_frame_equal(table, first)


def test_strings_match_exactly(model: VAE, cells: AnnData) -> None:
    cells.obs["group"] = np.array(["True", "0.5", "b"], dtype=object)[GROUP]
    for name in ("true", "0.50"):
        with pytest.raises(DataError, match=f"group1='{name}' not found"):
            differential_expression(cells, model, "group", name)


@pytest.mark.parametrize("variables", [1, 2])
def test_codes_are_in_numerical_order(variables: int) -> None:
    from vaekit.diagnostics import most_probable_codes
    from vaekit.latents import Categorical

    numbers = torch.cartesian_prod(*[torch.arange(12)] * variables).reshape(-1, variables)
    shuffled = numbers[torch.randperm(len(numbers), generator=torch.Generator().manual_seed(0))]
    summary = torch.nn.functional.one_hot(shuffled, 12).float().flatten(1)
    codes = most_probable_codes(Categorical(12, variables), summary)
    assert list(codes.categories) == ["-".join(map(str, row)) for row in numbers.tolist()]
    assert list(codes) == ["-".join(map(str, row)) for row in shuffled.tolist()]


WRITERS: dict[str, tuple[Callable[..., Any], dict[str, list[str]]]] = {
    "embed": (embed, {"uns": ["KEY"], "obs": ["KEY_y"], "obsm": ["X_KEY", "KEY_y_probabilities"]}),
    "normalized_expression": (normalized_expression, {"uns": ["KEY"], "layers": ["KEY"], "obsm": ["KEY"]}),
    "markers": (markers, {"uns": ["KEY"]}),
    "posterior_predictive_check": (
        posterior_predictive_check,
        {"uns": ["KEY"], "obs": ["KEY_total_replicated", "KEY_zero_fraction", "KEY_zero_fraction_replicated"]},
    ),
    "differential_expression": (
        lambda cells, model, **key: differential_expression(cells, model, "cell_type", "B", **key),
        {"uns": ["KEY"]},
    ),
    "transfer_labels": (
        lambda cells, model, **key: transfer_labels(cells, cells, model, "cell_type", **key),
        {"uns": ["KEY"], "obs": ["KEY", "KEY_uncertainty"]},
    ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_fields_of_the_user_are_never_replaced(
    model: VAE, cells: AnnData, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    function, places = WRITERS[name]
    key = "X_KEY" if name == "embed" else "KEY"
    values = {"obs": "mine", "obsm": np.ones((60, 2)), "layers": cells.X, "uns": np.arange(3)}
    with monkeypatch.context() as patch:
        patch.setattr(VAENetworks, "encode", lambda *arguments: pytest.fail("the model ran"))
        for place, names in places.items():
            for name_in_use in names:
                occupied = cells.copy()
                getattr(occupied, place)[name_in_use] = values[place]
                with pytest.raises(DataError, match=rf"{place}\['{name_in_use}'\] exists, and uns\["):
                    function(occupied, model, key_added=key)
        for wrong in ("a/b", "", 3):
            with pytest.raises(DataError, match="key_added="):
                function(cells.copy(), model, key_added=wrong)
    for _ in range(2):  # fields of vaekit are replaced
        function(cells, model, key_added=key)
    for place, names in places.items():
        assert {*names} <= {*getattr(cells, place)} | ({"KEY"} if place == "obsm" else set())


def test_results_without_provenance_are_not_replaced(model: VAE, cells: AnnData) -> None:
    import anndata

    embed(cells, model)
    parts = cells[:30].copy(), cells[30:].copy()
    for part in parts:  # a subset keeps the record
        embed(part, model)
    both = anndata.concat(parts)
    with pytest.raises(DataError, match=r"uns\['vaekit'\] does not record that vaekit wrote it \(anndata.concat"):
        embed(both, model)


class TestGenesOfRaw:
    """Counts in ``.raw``; ``.X`` is normalized and has fewer genes, in another order."""

    @pytest.fixture(scope="class")
    def raw(self) -> tuple[AnnData, VAE]:
        cells = adata(cells=60, genes=15)
        cells.raw = cells.copy()
        cells = cells[:, [7, 3, 0, 11]].copy()
        cells.X = np.log1p(cells.X.toarray())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            data = GeneExpressionData(cells, layer="raw", batch_key="batch")
            model = MODELS["mixed"](NegativeBinomial(), data.features, covariates=data.covariates)
            trainer(max_epochs=1, limit_val_batches=0).fit(model, datamodule=data)
        return cells, model.eval()

    def test_no_gene_is_dropped(self, raw: tuple[AnnData, VAE]) -> None:
        cells, model = raw[0].copy(), raw[1]
        with pytest.warns(UserWarning, match=r"11 of the model's 15 genes, such as 'gene1', are not in .var"):
            normalized_expression(cells, model, seed=3)
        genes = list(cells.uns["vaekit_normalized"]["genes"])
        assert genes == list(cells.raw.var_names)
        table = normalized_expression(cells, model, genes=genes, seed=3)
        np.testing.assert_array_equal(cells.obsm["vaekit_normalized"], table)
        np.testing.assert_array_equal(cells.layers["vaekit_normalized"], table[list(cells.var_names)])

    def test_the_other_functions_have_all_genes(self, raw: tuple[AnnData, VAE]) -> None:
        cells, model = raw[0].copy(), raw[1]
        genes = set(cells.raw.var_names)
        assert set(differential_expression(cells, model, "cell_type", "B").index) == genes
        assert set(posterior_predictive_check(cells, model).index) == genes
        assert set(markers(cells, model, n_genes=15, pseudo_fraction=0.01)["gene"]) == genes
