"""Differential expression of several groups, of masks and conditions, and of replicates."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from vaekit.analysis import differential_expression, plot_dotplot, plot_heatmap, plot_volcano, top_genes
from vaekit.analysis.groups import select_comparisons
from vaekit.analysis.partition import partition_cells
from vaekit.data.cells.columns import read_column
from vaekit.exceptions import DataError
from vaekit.models import VAE
from vaekit.models.vae_networks import VAENetworks

Simulated = tuple[AnnData, VAE]


@pytest.fixture
def cells(simulated: Simulated) -> AnnData:
    """Cells with a donor, two in each batch."""
    cells = simulated[0].copy()
    second = np.arange(cells.n_obs) % 2
    cells.obs["donor"] = [f"{batch}-{number}" for batch, number in zip(cells.obs["batch"], second, strict=True)]
    return cells


@pytest.fixture(scope="module")
def every_group(simulated: Simulated) -> pd.DataFrame:
    return differential_expression(simulated[0].copy(), simulated[1], "cluster", fdr=0.1)


def check_equal(table: pd.DataFrame, expected: pd.DataFrame) -> None:
    """Check that all numbers and calls are equal."""
    numbers = expected.select_dtypes(["number", "bool"]).columns
    pd.testing.assert_frame_equal(table.loc[expected.index, numbers], expected[numbers], rtol=1e-6, atol=1e-8)


class TestGroups:
    def test_every_group_against_the_rest(self, simulated: Simulated, every_group: pd.DataFrame) -> None:
        names = [f"cluster{i} vs Rest" for i in range(3)]
        assert list(every_group["comparison"].unique()) == names
        assert every_group["group2"].unique().tolist() == ["Rest"]
        for number, name in enumerate(names):
            single = differential_expression(simulated[0].copy(), simulated[1], "cluster", f"cluster{number}", fdr=0.1)
            check_equal(every_group[every_group["comparison"] == name], single)

    def test_several_groups_against_one(self, simulated: Simulated) -> None:
        several = differential_expression(
            simulated[0].copy(), simulated[1], "cluster", ["cluster2", "cluster0"], "cluster1"
        )
        assert list(several["comparison"].unique()) == ["cluster2 vs cluster1", "cluster0 vs cluster1"]
        every = differential_expression(simulated[0].copy(), simulated[1], "cluster", None, "cluster1")
        assert list(every["comparison"].unique()) == ["cluster0 vs cluster1", "cluster2 vs cluster1"]
        single = differential_expression(simulated[0].copy(), simulated[1], "cluster", "cluster0", "cluster1")
        for table in (several, every):
            check_equal(table[table["group1"] == "cluster0"], single)

    def test_the_model_runs_once_per_cell(self, cells: AnnData, simulated: Simulated, monkeypatch) -> None:
        num_cells, encode = [], VAENetworks.encode

        def count(self: VAENetworks, batch):
            num_cells.append(len(batch.x))
            return encode(self, batch)

        monkeypatch.setattr(VAENetworks, "encode", count)
        differential_expression(cells, simulated[1], "cluster", replicate_key="donor")
        assert sum(num_cells) == cells.n_obs

    def test_groups_are_sorted_by_their_numbers(self, cells: AnnData) -> None:
        names = pd.Categorical(np.array(["10", "9", "1"])[np.arange(cells.n_obs) % 3], ["9", "10", "1"])
        comparisons = select_comparisons(cells.obs.assign(code=names), "code", None, None, "cells")
        assert [one.group1 for one in comparisons] == ["1", "9", "10"]

    def test_booleans_name_groups_of_a_boolean_column(self, cells: AnnData) -> None:
        obs = cells.obs.assign(treated=cells.obs["batch"] == "batch0")
        (comparison,) = select_comparisons(obs, "treated", [True], None, "cells")
        assert comparison.group1 == "True"
        np.testing.assert_array_equal(comparison.first, obs["treated"])

    def test_survives_h5ad(self, cells: AnnData, simulated: Simulated, tmp_path) -> None:
        table = differential_expression(cells, simulated[1], "cluster")
        cells.write_h5ad(tmp_path / "cells.h5ad")
        stored = anndata.read_h5ad(tmp_path / "cells.h5ad").uns["vaekit_de"]["table"]
        pd.testing.assert_frame_equal(stored, table, check_dtype=False, check_index_type=False)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((None, None), r"groupby=None and group1=None. Pass groupby='COLUMN'"),
            (("cluster", []), r"group1=\[\] must name a group"),
            (("cluster", ["cluster0", "cluster0"]), "names 'cluster0' twice"),
            (("cluster", ["cluster0", "cluster7"]), "group1='cluster7' not found.*Did you mean"),
            (("cluster", ["cluster0", "cluster1"], "cluster1"), "both 'cluster1'"),
            (("cluster", "cluster0", ["cluster1"]), r"group2=\['cluster1'\] must be one group"),
            (("cluster", np.ones(1200, bool)), "exclude each other. Omit groupby"),
            (("library_size",), r"has \d+ different values in 1200 cells"),
            (("one",), "all cells of AnnData in memory are in group1='all'"),
            (("one", None, "all"), "no group besides group2='all'"),
        ],
    )
    def test_invalid_groups(self, cells: AnnData, simulated: Simulated, arguments, message, monkeypatch) -> None:
        cells.obs["one"] = "all"
        monkeypatch.setattr(VAENetworks, "encode", lambda *_: pytest.fail("the model ran"))
        with pytest.raises(DataError, match=message):
            differential_expression(cells, simulated[1], *arguments)


class TestMasks:
    def test_masks_conditions_and_names_agree(self, cells: AnnData, simulated: Simulated) -> None:
        model = simulated[1]
        expected = differential_expression(cells, model, "cluster", "cluster0", "cluster1")
        first, second = (cells.obs["cluster"] == name for name in ("cluster0", "cluster1"))
        shuffled = first.sample(frac=1, random_state=0)
        for group1, group2 in (
            (first, second),
            (first.to_numpy(), second.to_list()),
            (shuffled, second.astype("boolean")),
            ("cluster == 'cluster0'", "cluster == 'cluster1'"),
        ):
            table = differential_expression(cells, model, group1=group1, group2=group2)
            check_equal(table, expected)
        assert table["comparison"].unique().tolist() == ["cluster == 'cluster0' vs cluster == 'cluster1'"]
        rest = differential_expression(cells, model, group1=first)
        check_equal(rest, differential_expression(cells, model, "cluster", "cluster0"))
        assert rest["comparison"].unique().tolist() == ["group1 vs Rest"]

    def test_several_conditions_may_overlap(self, cells: AnnData, simulated: Simulated) -> None:
        conditions = ["cluster == 'cluster0'", "cluster != 'cluster1' and batch == 'batch0'"]
        table = differential_expression(cells, simulated[1], group1=conditions)
        assert list(table["group1"].unique()) == conditions
        mask = (cells.obs["cluster"] != "cluster1") & (cells.obs["batch"] == "batch0")
        check_equal(table[table["group1"] == conditions[1]], differential_expression(cells, simulated[1], group1=mask))

    @pytest.mark.parametrize(
        ("masks", "message"),
        [
            (
                lambda n: (np.ones(5, bool), None),
                r"group1 is a mask of shape \(5,\), but must have one boolean for each",
            ),
            (lambda n: (np.ones((n, 2), bool), None), r"mask of shape \(1200, 2\)"),
            (lambda n: (np.arange(n), None), "group1 has values of type int64, but a mask must have booleans"),
            (
                lambda n: (pd.Series([True, None] * (n // 2), dtype="boolean").to_numpy(), None),
                "fill in missing values",
            ),
            (lambda n: (np.zeros(n, bool), None), "group1 selects none of the 1200 cells"),
            (lambda n: (np.ones(n, bool), None), "group1 selects all 1200 cells of AnnData in memory"),
            (lambda n: (np.arange(n) < 9, np.arange(n) < 3), r"share 3 of 1200 cells .* Pass group2=mask2 & ~mask1"),
            (lambda n: (np.arange(n) < 9, np.zeros(n, bool)), "group2 selects none"),
            (lambda n: (pd.Series(np.arange(n) < 9), None), "lacks 1200 of the 1200 cells .* adata.obs_names"),
            (lambda n: ("clustr == 'cluster0'", None), "'clustr' not found in .obs.* Did you mean 'cluster'"),
            (lambda n: ("cluster0", None), "To name a group of a column, pass groupby='COLUMN'"),
            (lambda n: ("cluster == ", None), "is not a valid condition"),
            (lambda n: ("library_size", None), "must be true or false for each cell"),
            (lambda n: ("cluster == 'B'", None), "selects none of the 1200 cells"),
        ],
    )
    def test_invalid_masks(self, cells: AnnData, simulated: Simulated, masks, message, monkeypatch) -> None:
        monkeypatch.setattr(VAENetworks, "encode", lambda *_: pytest.fail("the model ran"))
        group1, group2 = masks(cells.n_obs)
        with pytest.raises(DataError, match=message):
            differential_expression(cells, simulated[1], group1=group1, group2=group2)


def test_parts_are_disjoint_and_make_up_the_groups(cells: AnnData) -> None:
    donors = read_column(cells.obs, "donor", "replicate_key", "cells")
    comparisons = select_comparisons(
        cells.obs,
        None,
        ["cluster == 'cluster0'", "batch == 'batch0'"],
        "cluster == 'cluster2' and batch == 'batch1'",
        "x",
    )
    partition = partition_cells(comparisons, donors)
    together = np.concatenate(partition.cells)
    assert len(set(together.tolist())) == len(together)
    for number, comparison in enumerate(comparisons):
        for group, mask in enumerate((comparison.first, comparison.second)):
            for code in range(4):
                parts = partition.parts(group, number, code)
                index = np.concatenate([partition.cells[part] for part in parts] or [np.array([], dtype=int)])
                np.testing.assert_array_equal(np.sort(index), np.flatnonzero(mask & (donors.codes == code)))


class TestReplicates:
    def test_errors_increase_and_names_stay(self, cells: AnnData, simulated: Simulated) -> None:
        plain = differential_expression(cells, simulated[1], "cluster", "cluster0", "cluster1")
        table = differential_expression(cells, simulated[1], "cluster", "cluster0", "cluster1", replicate_key="donor")
        assert set(table.columns) == set(plain.columns)
        assert table["comparison"].unique().tolist() == ["cluster0 vs cluster1"]
        raw = [column for column in plain if column.startswith(("raw", "non_zeros", "scale"))]
        np.testing.assert_allclose(table.loc[plain.index, raw], plain[raw])
        assert np.corrcoef(table.loc[plain.index, "lfc_mean"], plain["lfc_mean"])[0, 1] > 0.9
        assert table["is_de_fdr_0.05"].sum() < plain["is_de_fdr_0.05"].sum()

    def test_batches_may_be_the_replicates(self, cells: AnnData, simulated: Simulated) -> None:
        table = differential_expression(cells, simulated[1], "cluster", replicate_key="batch")
        assert table.select_dtypes("number").notna().all(axis=None)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            (
                lambda obs: obs["cluster"].astype(str),
                r"at least two replicates per group .* 'cluster0' \(only 'cluster0'\)",
            ),
            (lambda obs: np.full(len(obs), "d1"), r"'cluster0' \(only 'd1'\).* or omit replicate_key"),
            (lambda obs: np.arange(len(obs)).astype(str), "has 1200 different values in 1200 cells"),
            (lambda obs: obs["donor"].where(np.arange(len(obs)) > 0), r"\d of the 1200 cells to compare .* \(NaN\)"),
        ],
    )
    def test_invalid_replicates(self, cells: AnnData, simulated: Simulated, values, message, monkeypatch) -> None:
        cells.obs["who"] = values(cells.obs)
        monkeypatch.setattr(VAENetworks, "encode", lambda *_: pytest.fail("the model ran"))
        with pytest.raises(DataError, match=message):
            differential_expression(cells, simulated[1], "cluster", "cluster0", replicate_key="who")
        with pytest.raises(DataError, match=r"replicate_key='doner' not found.*Did you mean 'donor'"):
            differential_expression(cells, simulated[1], "cluster", "cluster0", replicate_key="doner")


class TestTopGenes:
    def test_called_genes_that_are_higher_in_the_group(self, every_group: pd.DataFrame) -> None:
        top = top_genes(every_group, n=4)
        assert top.groupby("group1").size().tolist() == [4, 4, 4]
        assert (top["lfc_mean"] > 0).all()
        for name, part in top.groupby("comparison"):
            assert part["rank"].tolist() == [1, 2, 3, 4]
            assert part["proba_up"].is_monotonic_decreasing
            rows = every_group[every_group["comparison"] == name].loc[part["gene"]]
            assert rows["is_de_fdr_0.1"].all()
            np.testing.assert_array_equal(rows["lfc_mean"], part["lfc_mean"])
        none = every_group.assign(**{"is_de_fdr_0.1": False})
        assert list(top_genes(none).columns) == list(top.columns)
        assert top_genes(none).empty
        with pytest.raises(DataError, match=r"n=0 must be at least 1"):
            top_genes(every_group, 0)
        for plot in (plot_dotplot, lambda table: plot_heatmap("x.h5ad", None, table, "cluster")):
            with pytest.raises(DataError, match=r"No gene of the table is called \(is_de_fdr_0.1\)"):
                plot(none)

    def test_dot_plot(self, every_group: pd.DataFrame, tmp_path) -> None:
        figure = plot_dotplot(every_group, n=3, title="clusters")
        figure.savefig(tmp_path / "dots.png")
        labels = {text.get_text() for axis in figure.axes for text in axis.get_xticklabels() + axis.get_yticklabels()}
        assert labels >= {"cluster0", "cluster1", "cluster2", *top_genes(every_group, n=3)["gene"]}

    def test_heat_map(self, cells: AnnData, simulated: Simulated, every_group: pd.DataFrame, tmp_path) -> None:
        path = tmp_path / "cells.h5ad"
        cells.write_h5ad(path)
        genes = set(top_genes(every_group, n=3)["gene"])
        for source in (cells, path):
            figure = plot_heatmap(source, simulated[1], every_group, "cluster", n=3)
            figure.savefig(tmp_path / "heat.png")
            assert genes <= {text.get_text() for axis in figure.axes for text in axis.get_xticklabels()}
        with pytest.raises(DataError, match=r"'cluster0' of the table not found in .obs"):
            plot_heatmap(cells, simulated[1], every_group, "batch")

    def test_a_volcano_has_one_comparison(self, every_group: pd.DataFrame) -> None:
        with pytest.raises(DataError, match=r"has 3 comparisons.*table\['comparison'\] == 'cluster0 vs Rest'"):
            plot_volcano(every_group)
