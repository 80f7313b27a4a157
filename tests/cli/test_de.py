"""`vaekit de` and `vaekit denoise` on real files."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from models.tiny import adata, trainer

from vaekit import GaussianVAE
from vaekit.cli.main import main
from vaekit.data import GeneExpressionData
from vaekit.likelihoods import NegativeBinomial


def run(*arguments: str | Path) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of cells in two batches, and the checkpoints of models trained on it and on an AnnData in memory."""
    made = tmp_path_factory.mktemp("cells")
    adata(cells=120, genes=30).write_h5ad(made / "cells.h5ad")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, source in (("file", {"path": str(made / "cells.h5ad")}), ("memory", {"adata": adata(120, 30)})):
            data = GeneExpressionData(**source, batch_key="batch")
            model = GaussianVAE(data.features, NegativeBinomial(), data.covariates, latent_dim=2, hidden=(8,))
            (used := trainer(max_epochs=2, limit_val_batches=0)).fit(model, datamodule=data)
            used.save_checkpoint(made / f"{name}.ckpt")
    return made


GROUPS = ("--groupby", "cell_type", "--group1", "B", "--group2", "T")


class TestDe:
    def test_writes_table_and_volcano(self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        before = (folder / "cells.h5ad").read_bytes()
        out = tmp_path / "b_t.csv"
        assert run("de", folder / "file.ckpt", folder / "cells.h5ad", *GROUPS, "-o", out, "--fdr", 0.1) == 0
        table = pd.read_csv(out, index_col=0)
        assert len(table) == 30
        assert table.index.name == "gene"
        assert table["proba_de"].is_monotonic_decreasing
        assert table["is_de_fdr_0.1"].dtype == bool
        assert (tmp_path / "b_t.png").read_bytes().startswith(b"\x89PNG")
        assert {file.name for file in tmp_path.iterdir()} == {"b_t.csv", "b_t.png"}
        shown = capsys.readouterr()
        assert f"B vs T, {table['is_de_fdr_0.1'].sum()} of 30 genes called" in shown.out
        assert table.index[0] in shown.out
        assert "comparing" in shown.err  # the progress bar
        assert (folder / "cells.h5ad").read_bytes() == before

    def test_training_data_and_the_rest(self, folder: Path, tmp_path: Path) -> None:
        groups = ("--groupby", "cell_type", "--group1", "NK")
        assert run("de", folder / "file.ckpt", *groups, "-o", tmp_path / "nk.csv") == 0
        assert pd.read_csv(tmp_path / "nk.csv")["group2"].unique().tolist() == ["Rest"]

    def test_every_group_several_groups_and_conditions(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        start = ("de", folder / "file.ckpt", folder / "cells.h5ad", "--fdr", 0.4)
        assert run(*start, "--groupby", "cell_type", "-o", tmp_path / "every.csv") == 0
        table = pd.read_csv(tmp_path / "every.csv", index_col="gene")
        names = list(table["comparison"].unique())
        assert names == sorted(names)
        assert len(names) > 2
        assert (tmp_path / "every.png").read_bytes().startswith(b"\x89PNG")
        shown = capsys.readouterr().out
        assert all(
            f"{name}: {table.loc[table['comparison'] == name, 'is_de_fdr_0.4'].sum()} genes" in shown for name in names
        )
        groups = ("--groupby", "cell_type", "--group1", "B", "NK", "--group2", "T")
        assert run(*start, *groups, "-o", tmp_path / "two.csv") == 0
        assert list(pd.read_csv(tmp_path / "two.csv")["comparison"].unique()) == ["B vs T", "NK vs T"]
        masks = ("--group1", "cell_type == 'B'", "--group2", "cell_type == 'T'")
        assert run(*start, *masks, "-o", tmp_path / "masks.csv") == 0
        first, second = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("two", "masks"))
        first = first[first["group1"] == "B"]
        np.testing.assert_allclose(first["lfc_mean"], second["lfc_mean"], rtol=1e-6)

    def test_several_comparisons_without_called_genes(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ("--groupby", "cell_type", "--delta", 20, "-o", tmp_path / "none.csv")
        assert run("de", folder / "file.ckpt", folder / "cells.h5ad", *arguments) == 0
        assert "no dot plot, because no gene is called" in capsys.readouterr().out
        assert [file.name for file in tmp_path.iterdir()] == ["none.csv"]

    def test_replicates(self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        start = ("de", folder / "file.ckpt", folder / "cells.h5ad", *GROUPS)
        assert run(*start, "--replicate_key", "batch", "-o", tmp_path / "x.csv") == 0
        assert run(*start, "--replicate_key", "bath", "-o", tmp_path / "y.csv") == 2
        assert "replicate_key='bath' not found" in capsys.readouterr().err

    def test_training_data_that_were_in_memory(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("de", folder / "memory.ckpt", *GROUPS, "-o", tmp_path / "x.csv") == 2
        assert "in memory" in capsys.readouterr().err

    @pytest.mark.parametrize("taken", ["a.csv", "a.png"])
    def test_nothing_is_written_over(
        self, folder: Path, tmp_path: Path, taken: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / taken).write_text("precious")
        arguments = ("de", folder / "file.ckpt", folder / "cells.h5ad", *GROUPS, "-o", tmp_path / "a.csv")
        assert run(*arguments) == 2
        assert f"{taken} exists" in capsys.readouterr().err
        assert [file.read_text() for file in tmp_path.iterdir()] == ["precious"]
        assert run(*arguments, "--overwrite") == 0
        assert len(list(tmp_path.iterdir())) == 2

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--groupby", "cell_typ", "--group1", "B", "-o", "{}/x.csv"), "Did you mean 'cell_type'"),
            (("--groupby", "cell_type", "--group1", "C", "-o", "{}/x.csv"), "group1='C'"),
            ((*GROUPS, "-o", "{}/x.png"), "must end in .csv"),
            ((*GROUPS, "-o", "{}/no/x.csv"), "does not exist"),
            ((*GROUPS, "-o", "{}/x.csv", "--delta", "-1"), "delta=-1"),
        ],
    )
    def test_errors(
        self,
        folder: Path,
        tmp_path: Path,
        arguments: tuple[str, ...],
        message: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        arguments = tuple(argument.format(tmp_path) for argument in arguments)
        assert run("de", folder / "file.ckpt", folder / "cells.h5ad", *arguments) == 2
        assert message in capsys.readouterr().err
        assert not list(tmp_path.iterdir())


class TestDenoise:
    def test_writes_the_layer_and_its_provenance(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = (folder / "cells.h5ad").read_bytes()
        out = tmp_path / "out.h5ad"
        assert run("denoise", folder / "file.ckpt", folder / "cells.h5ad", "-o", out) == 0
        found = anndata.read_h5ad(out)
        np.testing.assert_allclose(found.layers["vaekit_normalized"].sum(1), 1e4, rtol=1e-4)
        assert found.uns["vaekit_normalized"]["checkpoint"] == str(folder / "file.ckpt")
        shown = capsys.readouterr()
        assert "120 cells" in shown.out
        assert "normalizing" in shown.err
        assert (folder / "cells.h5ad").read_bytes() == before
        assert run("denoise", folder / "file.ckpt", folder / "cells.h5ad", "-o", out) == 2
        assert run("denoise", folder / "file.ckpt", folder / "cells.h5ad", "-o", folder / "cells.h5ad") == 2

    def test_batch_and_library_size(self, folder: Path, tmp_path: Path) -> None:
        layers = []
        for number, batches in enumerate((["b1"], ["b2"], ["b1", "b2"])):
            out = tmp_path / f"{number}.h5ad"
            flags = [part for batch in batches for part in ("--transform_batch", batch)]
            assert run("denoise", folder / "file.ckpt", *flags, "--library_size", "observed", "-o", out) == 0
            found = anndata.read_h5ad(out)
            assert found.uns["vaekit_normalized"]["transform_batch"].tolist() == batches
            layers.append(found.layers["vaekit_normalized"])
        np.testing.assert_allclose((layers[0] + layers[1]) / 2, layers[2], rtol=1e-4)
        np.testing.assert_allclose(layers[0].sum(1), np.asarray(found.X.sum(1)).ravel(), rtol=1e-4)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--library_size", "big"), "'observed'"),
            (("--library_size", "-1"), "library_size=-1"),
            (("--transform_batch", "b3"), "not found in the model's batches"),
            (("--num_samples", "0"), "num_samples=0 must"),
        ],
    )
    def test_errors(
        self,
        folder: Path,
        tmp_path: Path,
        arguments: tuple[str, ...],
        message: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        out = tmp_path / "out.h5ad"
        assert run("denoise", folder / "file.ckpt", folder / "cells.h5ad", "-o", out, *arguments) == 2
        assert message in capsys.readouterr().err
        assert not out.exists()


@pytest.mark.parametrize("command", ["de", "denoise"])
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"usage: vaekit {command}" in capsys.readouterr().out
