"""Commands for cells: several files, both formats read back, figures, and every wrong use before long work."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.image import imread
from models.tiny import MODELS, adata, trainer

from vaekit.cli.cell_commands import embed
from vaekit.cli.main import FUNCTIONS, main
from vaekit.data import GeneExpressionData
from vaekit.likelihoods import NegativeBinomial
from vaekit.models import load
from vaekit.models.vae_networks import VAENetworks

# Arguments of each command after the checkpoint and the files.
FLAGS: dict[str, list[str]] = {
    "embed": [],
    "denoise": ["--genes", "gene1", "gene4"],
    "transfer": ["--label_key", "cell_type", "--n_neighbors", "5"],
    "de": ["--groupby", "cell_type", "--group1", "B"],
    "markers": ["--num_samples", "20"],
    "ppc": ["--num_samples", "2"],
}
PER_CELL = ("embed", "denoise", "transfer")


def run(*arguments: Any) -> int:
    return main([str(argument) for argument in arguments])


def call(command: str, checkpoint: Path, files: list[Path], *flags: Any) -> int:
    """Run a command on files; `transfer` labels them by the training data."""
    cells = ["--query", *files] if command == "transfer" and files else files
    return run(command, checkpoint, *cells, *FLAGS[command], *flags)


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, index_col=0)


def is_drawn(path: Path) -> bool:
    image = imread(path)
    return image.shape[0] > 100 and float(image[..., :3].std()) > 0.01


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cells in one file and in two, and models with a category, with two, and without one."""
    made = tmp_path_factory.mktemp("cells")
    cells = adata(cells=90, genes=20)
    cells.write_h5ad(made / "cells.h5ad")
    cells[:40].copy().write_h5ad(made / "first.h5ad")
    cells[40:].copy().write_h5ad(made / "second.h5ad")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name in ("mixed", "gaussian", "gamma", "discrete_enumerate"):
            data = GeneExpressionData(path=str(made / "cells.h5ad"), batch_key="batch", label_key="cell_type")
            model = MODELS[name](NegativeBinomial(), data.features, covariates=data.covariates)
            (used := trainer(max_epochs=3, limit_val_batches=0)).fit(model, datamodule=data)
            used.save_checkpoint(made / f"{name}.ckpt")
    return made


@pytest.mark.parametrize("command", FLAGS)
def test_several_files_give_the_result_of_one(folder: Path, tmp_path: Path, command: str) -> None:
    parts = [folder / "first.h5ad", folder / "second.h5ad"]
    before = [path.read_bytes() for path in parts]
    assert call(command, folder / "mixed.ckpt", parts, "-o", tmp_path / "parts.csv") == 0
    assert call(command, folder / "mixed.ckpt", [folder / "cells.h5ad"], "-o", tmp_path / "one.csv") == 0
    found, expected = read(tmp_path / "parts.csv"), read(tmp_path / "one.csv")
    if command in PER_CELL:
        assert found.pop("vaekit_file").tolist() == ["first"] * 40 + ["second"] * 50
    pd.testing.assert_frame_equal(found, expected, rtol=1e-4, atol=1e-5)
    assert {path.name for path in tmp_path.iterdir()} == {"parts.csv", "parts.png", "one.csv", "one.png"}
    assert is_drawn(tmp_path / "parts.png")
    assert [path.read_bytes() for path in parts] == before


@pytest.mark.parametrize("command", PER_CELL)
def test_both_formats_hold_the_same_values(folder: Path, tmp_path: Path, command: str) -> None:
    parts = [folder / "first.h5ad", folder / "second.h5ad"]
    for ending in ("h5ad", "csv"):
        assert call(command, folder / "mixed.ckpt", parts, "-o", tmp_path / f"out.{ending}", "--overwrite") == 0
    cells, table = anndata.read_h5ad(tmp_path / "out.h5ad"), read(tmp_path / "out.csv")
    assert list(cells.obs_names) == list(table.index)
    assert cells.obs["vaekit_file"].tolist() == table["vaekit_file"].tolist()
    if command == "embed":
        np.testing.assert_allclose(table.filter(regex="^X_vaekit_").to_numpy(), cells.obsm["X_vaekit"], rtol=1e-5)
        assert table["vaekit_y"].astype(str).tolist() == cells.obs["vaekit_y"].tolist()
    elif command == "denoise":
        genes = FLAGS["denoise"][1:]
        np.testing.assert_allclose(table[genes], cells.to_df("vaekit_normalized")[genes], rtol=1e-5)
    else:
        assert table["cell_type_transferred"].tolist() == cells.obs["cell_type_transferred"].tolist()
        assert table["cell_type_transferred_uncertainty"].between(0, 1).all()
        assert cells.uns["cell_type_transferred"]["n_neighbors"] == 5


@pytest.mark.parametrize("command", FLAGS)
def test_training_data_and_files_and_flags_in_any_order(folder: Path, tmp_path: Path, command: str) -> None:
    checkpoint, cells = folder / "mixed.ckpt", folder / "cells.h5ad"
    query = ["--query", cells] if command == "transfer" else []
    assert run(command, checkpoint, *query, *FLAGS[command], "-o", tmp_path / "training.csv") == 0
    assert run(command, "--layer", "X", checkpoint, "-o", tmp_path / "file.csv", cells, *query, *FLAGS[command]) == 0
    pd.testing.assert_frame_equal(read(tmp_path / "file.csv"), read(tmp_path / "training.csv"), rtol=1e-5)


def test_denoise_without_genes_plots_their_means(folder: Path, tmp_path: Path) -> None:
    assert run("denoise", folder / "gaussian.ckpt", "-o", tmp_path / "out.h5ad") == 0
    assert is_drawn(tmp_path / "out.png")
    assert anndata.read_h5ad(tmp_path / "out.h5ad").layers["vaekit_normalized"].shape == (90, 20)


@pytest.mark.parametrize("model", ["gaussian", "discrete_enumerate", "gamma"])
def test_embed_draws_every_kind_of_model(folder: Path, tmp_path: Path, model: str) -> None:
    assert run("embed", folder / f"{model}.ckpt", "-o", tmp_path / "out.csv") == 0
    assert is_drawn(tmp_path / "out.png")


def test_python_calls_the_same_function(folder: Path, tmp_path: Path) -> None:
    embed(folder / "mixed.ckpt", [str(folder / "cells.h5ad")], output=tmp_path / "python.csv")
    assert run("embed", folder / "mixed.ckpt", folder / "cells.h5ad", "-o", tmp_path / "shell.csv") == 0
    assert (tmp_path / "python.csv").read_text() == (tmp_path / "shell.csv").read_text()


def test_map_extends_the_model_and_says_what_to_do_next(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = adata(cells=90, genes=20)
    cells.obs["batch"] = "b9"
    for name, part in (("one", cells[:50]), ("two", cells[50:])):
        part.copy().write_h5ad(tmp_path / f"{name}.h5ad")
    files, mapped = [tmp_path / "one.h5ad", tmp_path / "two.h5ad"], tmp_path / "mapped.ckpt"
    assert run("map", folder / "mixed.ckpt", *files, "-o", mapped, "--max_steps", 5) == 0
    assert load(mapped).data_registry["batch_categories"] == ["b1", "b2", "b9"]
    assert is_drawn(tmp_path / "mapped.png")
    shown = capsys.readouterr().out
    assert "'b9' (90 cells)" in shown
    commands = re.findall(r"vaekit (.*?) -o", shown)
    assert [words.split()[0] for words in commands] == ["embed", "transfer"]
    embedding, labels = (words.replace("COLUMN", "cell_type").split() for words in commands)
    assert run(*embedding, "-o", tmp_path / "embedded.csv") == 0  # as printed
    assert run(*labels, "-o", tmp_path / "labels.csv") == 0
    assert set(read(tmp_path / "labels.csv")["cell_type_transferred"]) <= {"B", "T", "NK"}


class TestWrongUseBeforeLongWork:
    @pytest.fixture(autouse=True)
    def no_work(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def ran(self: VAENetworks, batch: object) -> None:
            raise AssertionError("the model ran")

        monkeypatch.setattr(VAENetworks, "encode", ran)

    @pytest.mark.parametrize("taken", ["out.csv", "out.png"])
    @pytest.mark.parametrize("command", FLAGS)
    def test_existing_outputs(
        self, folder: Path, tmp_path: Path, command: str, taken: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / taken).write_text("precious")
        assert call(command, folder / "mixed.ckpt", [folder / "cells.h5ad"], "-o", tmp_path / "out.csv") == 2
        assert f"{tmp_path / taken} exists. Choose another name, or pass --overwrite" in capsys.readouterr().err
        assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"]

    @pytest.mark.parametrize("name", ["out", "out.txt", "out.png", "out.h5", "out.zarr", "out.ckpt"])
    @pytest.mark.parametrize("command", FLAGS)
    def test_endings(
        self, folder: Path, tmp_path: Path, command: str, name: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert call(command, folder / "mixed.ckpt", [folder / "cells.h5ad"], "-o", tmp_path / name) == 2
        formats = ".h5ad or .csv" if command in PER_CELL else ".csv"
        assert f"must end in {formats}: the ending determines the format" in capsys.readouterr().err
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("command", FLAGS)
    def test_files(self, folder: Path, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
        checkpoint, cells, out = folder / "mixed.ckpt", folder / "cells.h5ad", tmp_path / "out.csv"
        assert call(command, checkpoint, [cells, folder / "cels.h5ad"], "-o", out) == 2
        assert "cels.h5ad does not exist. In" in capsys.readouterr().err
        assert call(command, checkpoint, [cells, cells], "-o", out) == 2
        assert f"names {cells} twice" in capsys.readouterr().err
        assert call(command, folder / "mixd.ckpt", [cells], "-o", out) == 2
        assert "mixd.ckpt" in capsys.readouterr().err
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("command", "model", "flags", "message"),
        [
            ("embed", "mixed", ["--label_key", "cel_type"], "Did you mean 'cell_type'?"),
            ("embed", "mixed", ["--batch_key", "cell"], "batch_key='cell'"),
            ("embed", "mixed", ["--key_added", "a/b"], "key_added='a/b'"),
            ("denoise", "mixed", ["--genes", "gen1"], "not found in the model. Did you mean 'gene1'?"),
            ("denoise", "mixed", ["--transform_batch", "b9"], "not found in the model's batches"),
            ("transfer", "mixed", ["--label_key", "cel_type"], "Did you mean 'cell_type'?"),
            ("transfer", "mixed", ["--n_neighbors", "1000"], "n_neighbors=1000"),
            ("markers", "mixed", ["--latent", "q"], "latent='q' not found in the model"),
            ("markers", "mixed", ["--latent", "z"], "latent='z' must be discrete or Dirichlet"),
            ("markers", "mixed", ["--n_genes", "0"], "n_genes=0 must be at least 1"),
            ("markers", "gaussian", [], "does not have a discrete or Dirichlet latent"),
            ("ppc", "mixed", ["--num_samples", "0"], "num_samples=0 must be at least 1"),
            ("ppc", "mixed", ["--seed", "-1"], "seed=-1 must be a whole number"),
            ("ppc", "mixed", ["--layer", "umi"], "umi"),
            ("de", "mixed", ["--group1", "C"], "group1='C'"),
        ],
    )
    def test_arguments(
        self,
        folder: Path,
        tmp_path: Path,
        command: str,
        model: str,
        flags: list[str],
        message: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        out = tmp_path / "out.csv"
        assert call(command, folder / f"{model}.ckpt", [folder / "cells.h5ad"], *flags, "-o", out) == 2
        error = capsys.readouterr().err
        assert message in error
        assert not list(tmp_path.iterdir())

    def test_a_table_of_denoised_cells_needs_genes(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("denoise", folder / "mixed.ckpt", "-o", tmp_path / "out.csv") == 2
        assert "--genes CD3D MS4A1" in capsys.readouterr().err

    @pytest.mark.parametrize("name", ["mapped", "mapped.h5ad"])
    def test_map(self, folder: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("map", folder / "mixed.ckpt", folder / "cells.h5ad", "-o", tmp_path / name) == 2
        assert "must end in .ckpt" in capsys.readouterr().err
        assert run("map", folder / "mixed.ckpt", folder / "cells.h5ad", "-o", tmp_path / "m.ckpt") == 2
        assert "batch" in capsys.readouterr().err  # the model knows it
        assert run("map", folder / "mixed.ckpt", "-o", tmp_path / "m.ckpt") == 2
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", ["h5ad", "csv"])
@pytest.mark.parametrize("command", FLAGS)
def test_an_interrupt_leaves_no_file(
    folder: Path, tmp_path: Path, command: str, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: VAENetworks, batch: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(VAENetworks, "encode", interrupt)
    if command in PER_CELL or ending == "csv":
        assert call(command, folder / "mixed.ckpt", [folder / "cells.h5ad"], "-o", tmp_path / f"out.{ending}") == 130
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", FUNCTIONS)
def test_help_fits_on_one_screen(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = capsys.readouterr().out
    assert text.startswith(f"usage: vaekit {command} ")
    assert f"example: vaekit {command} " in text
    assert len(text.splitlines()) <= 45
    assert "-h, --help" in text
