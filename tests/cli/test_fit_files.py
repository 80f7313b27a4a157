"""``vaekit fit cells.h5ad``: the same model as ``vaekit.fit``, with the run directory of a configured run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

import vaekit
from vaekit.callbacks.recipes import PATIENCE, default_num_steps, read_recipe
from vaekit.cli.fit_arguments import complete_arguments
from vaekit.cli.main import main
from vaekit.data import simulate_counts
from vaekit.data.cells.file_names import file_name

QUICK = (
    "--trainer.logger",
    "false",
    "--accelerator",
    "cpu",
    "--trainer.enable_progress_bar",
    "false",
    "--figure",
    "none",
)


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cells = simulate_counts(cells=150, genes=30, clusters=2, batches=2, seed=1)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    cells[:70].write_h5ad(tmp_path / "first.h5ad")
    cells[70:].write_h5ad(tmp_path / "second.h5ad")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def configuration(arguments: list[str]) -> dict[str, Any]:
    return json.loads(arguments[arguments.index("--config") + 1])


def test_the_same_model_as_in_python(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "cells.h5ad", "--batch_key", "batch", "--latents", "mixed", "--max_steps=12", *QUICK]) == 0
    model = vaekit.fit("cells.h5ad", "mixed", batch_key="batch", max_steps=12, progress=False, accelerator="cpu")
    weights = vaekit.load("runs/cells/best.ckpt").state_dict()
    assert all(weights[name].equal(value) for name, value in model.state_dict().items())
    assert "Next: vaekit embed runs/cells/best.ckpt -o runs/cells/embedding.h5ad" in capsys.readouterr().out
    config = yaml.safe_load(Path("runs/cells/config.yaml").read_text())
    assert (config["trainer"]["max_steps"], config["data"]["init_args"]["batch_key"]) == (12, "batch")


def test_colors_and_format_of_figures_are_part_of_the_configuration(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vaekit.plotting.embedding_figures.umap_coordinates", lambda points, seed=0: points[:, :2])
    monkeypatch.setattr("vaekit.cli.training_messages.report_run", lambda *args: "")
    flags = ["--trainer.logger", "false", "--accelerator", "cpu", "--color", "gene1", "--figure", "pdf"]
    assert main(["fit", "cells.h5ad", "--max_steps", "2", *flags]) == 0
    config = yaml.safe_load(Path("runs/cells/config.yaml").read_text())
    writer = {"class_path": "vaekit.callbacks.FigureWriter", "init_args": {"color": ["gene1"], "figure": "pdf"}}
    writer["init_args"] |= {"dirpath": None, "epochs": None}
    assert writer in config["trainer"]["callbacks"]
    again = ["--trainer.default_root_dir", "again", "--figure", "svg"]
    assert main(["fit", "--config", "runs/cells/config.yaml", *again]) == 0
    assert Path("again/figures/umap.svg").is_file()
    writer["init_args"]["figure"] = "svg"
    assert writer in yaml.safe_load(Path("again/config.yaml").read_text())["trainer"]["callbacks"]


def test_a_color_is_looked_up_before_a_logger_starts(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "cells.h5ad", "--color", "gene_1", "--max_steps", "2"]) == 2
    assert "color='gene_1' not found" in capsys.readouterr().err
    assert not list(directory.glob("runs/**/wandb"))


@pytest.mark.parametrize("name", ["#cells", "&donor", "1e3", "1.5e3", "-1E-5", "010", "true", "2020-01-01"])
def test_names_of_columns_are_text(name: str, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On the command line, and in the configuration that it prints."""
    with pytest.raises(SystemExit):
        main(["fit", "cells.h5ad", f"--batch_key={name}", "--print_config"])
    config = capsys.readouterr().out
    assert yaml.safe_load(config)["data"]["init_args"]["batch_key"] == name
    with pytest.raises(SystemExit):
        main(["fit", "--config", config, "--print_config"])
    assert capsys.readouterr().out == config


@pytest.mark.parametrize("mode", ["in_memory", "streamed"])
def test_files_are_batches(mode: str, directory: Path) -> None:
    flags = ["--batch_key", "vaekit_file", "--data.mode", mode, "--max_steps", "3"]
    assert main(["fit", "first.h5ad", "second.h5ad", *flags, *QUICK]) == 0
    model = vaekit.load("runs/first/last.ckpt")
    assert model.data_registry["batch_categories"] == ["first", "second"]
    assert main(["embed", "runs/first/last.ckpt", "second.h5ad", "first.h5ad", "-o", "both.csv", "--figure=none"]) == 0
    assert main(["embed", "runs/first/last.ckpt", "first.h5ad", "--batch_key", "first", "-o", "first.csv"]) == 0
    both, first = (pd.read_csv(name, index_col="cell") for name in ("both.csv", "first.csv"))
    assert both["vaekit_file"].value_counts().to_dict() == {"second": 80, "first": 70}
    latents = [name for name in first if name.startswith("X_vaekit")]
    pd.testing.assert_frame_equal(both.loc[first.index, latents], first[latents], rtol=1e-4, atol=1e-5)


def test_the_printed_command_embeds_the_cells(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "cells.h5ad", "--max_steps", "4", *QUICK]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("Next: vaekit embed"))
    assert main(line.removeprefix("Next: vaekit ").split()) == 0
    assert Path("runs/cells/embedding.h5ad").is_file()


def test_resume_and_seeds(directory: Path) -> None:
    assert main(["fit", "cells.h5ad", "--max_steps", "3", *QUICK]) == 0
    resumed = ["fit", "cells.h5ad", "--max_steps", "6", *QUICK, "--ckpt_path", "last"]
    assert main(resumed) == 0
    assert torch.load("runs/cells/last.ckpt", weights_only=True)["global_step"] == 6
    assert not Path("runs/cells/earlier").exists()
    assert main(["fit", "cells.h5ad", "--max_steps", "2", *QUICK, "--seeds", "2"]) == 0
    assert [Path(f"runs/cells/seed_{seed}/best.ckpt").is_file() for seed in (0, 1)] == [True, True]


def test_flags_without_a_section(directory: Path) -> None:
    flags = ["--batch_key", "donor", "--latent_dim=3", "--seed", "5", "--model.hidden", "[8]", "--latents", "mixed"]
    completed = complete_arguments(["cells.h5ad", *flags])
    assert completed[2:] == ["--data.batch_key", "donor", "--model.latents.z.dim=3", "--seed_everything", "5",
                             "--model.hidden", "[8]"]  # fmt: skip
    config = configuration(completed)
    assert config["model"] == read_recipe("mixed")["model"]
    assert config["trainer"]["default_root_dir"] == "runs/cells"
    assert config["trainer"]["max_steps"] == default_num_steps(150)
    assert config["trainer"]["callbacks"][0]["init_args"] == {"patience": PATIENCE}


@pytest.mark.parametrize("flag", [["--callbacks", "BestWeights"], ["--callbacks=BestWeights"]])
def test_callbacks_are_added(flag: list[str], directory: Path) -> None:
    assert main(["fit", "cells.h5ad", "--max_steps", "2", *QUICK, *flag]) == 0
    text = Path("runs/cells/config.yaml").read_text()
    assert "ELBOEarlyStopping" in text
    assert "BestWeights" in text


def test_names_that_look_like_numbers(directory: Path) -> None:
    cells = simulate_counts(cells=60, genes=20, batches=2, seed=1)
    cells.layers["010"] = cells.X.copy()
    cells.obs["007"] = cells.obs["batch"]
    cells.write_h5ad("numbers.h5ad")
    flags = ["--layer", "010", "--batch_key=007", "--color", "007", "--max_steps", "2", "--progress", "false"]
    assert main(["fit", "numbers.h5ad", *flags, *QUICK]) == 0
    data = yaml.safe_load(Path("runs/numbers/config.yaml").read_text())["data"]["init_args"]
    assert (data["layer"], data["batch_key"]) == ("010", "007")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("sample.v2.h5ad", "sample.v2"),
        ("counts.TSV.gz", "counts"),
        ("x/cells.zarr/", "cells"),
        ("a/outs/filtered_feature_bc_matrix/", "a"),
        ("b/filtered_feature_bc_matrix.h5", "b"),
        ("c/outs/per_sample_outs/d/count/sample_filtered_feature_bc_matrix.h5", "d"),
        ("e/matrix.mtx.gz", "e"),
        ("https://example.org/f/outs/filtered_feature_bc_matrix.h5", "f"),
    ],
)
def test_name_of_the_run_directory(file: str, name: str) -> None:
    assert file_name(file) == name


def test_several_files_and_a_configuration(directory: Path) -> None:
    files = ["first.h5ad", "--batch_key", "batch", "second.h5ad"]  # flags and files in any order
    assert configuration(complete_arguments(files))["data"]["init_args"]["path"] == ["first.h5ad", "second.h5ad"]
    assert complete_arguments(["cells.h5ad", "--config", "pbmc_mixed", "--layer", "counts"]) == [
        "--config", "pbmc_mixed", "--data.layer", "counts", "--data.path", "cells.h5ad",
    ]  # fmt: skip
    unchanged = ["--config", "digits_mixed", "--trainer.max_epochs=3", "--unknown", "x"]
    assert complete_arguments(unchanged) == unchanged


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cell.h5ad"], "cell.h5ad does not exist. In '.': Did you mean 'cells.h5ad'?"),
        (["pbmc_mixed"], "pbmc_mixed is a configuration. Pass it as --config pbmc_mixed"),
        (["mine.yaml"], "mine.yaml is a configuration. Pass it as --config mine.yaml"),
        (["runs/a/last.ckpt"], "runs/a/last.ckpt is a checkpoint. Pass the cells, and --ckpt_path runs/a/last.ckpt"),
        (["cells.h5ad", "--latents", "mixd"], "latents='mixd' is unknown. Did you mean 'mixed'?"),
        (["cells.h5ad", "--latents"], "latents='' is unknown. Available: 'gaussian', 'mixed'"),
        (["--latents", "mixed"], "latents is a flag for files of cells without a configuration"),
        (["cells.h5ad", "--bach_key", "batch"], "'bach_key' is not a setting of fit with latents='gaussian'. Did you"),
        (["cells.h5ad", "--max_steps", "0"], "max_steps=0 must be a positive integer"),
        (["cells.h5ad", "--batch_key", "btch", *QUICK], "batch_key='btch' not found in .obs of"),
        (
            ["cells.h5ad", "--likelihood", "znb", *QUICK],
            "model.likelihood: class 'znb' not found. Did you mean 'zinb'?",
        ),
        (["cells.h5ad", "--hidden", "8", *QUICK], "model.hidden"),
    ],
)
def test_one_line_with_the_remedy(
    arguments: list[str], message: str, directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert message in lines[-1]
    assert not Path("runs/cells/last.ckpt").exists()
