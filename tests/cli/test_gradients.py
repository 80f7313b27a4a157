"""``vaekit gradients`` end to end, in this process."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from matplotlib.image import imread

from vaekit.cli.main import main

from .offline_runs import wandb_keys

CONFIG = Path(__file__).parents[2] / "configs/pbmc_mixed.yaml"
QUICK = ("--num_estimates", "8", "--batch_size", "8")
SILENT = ("--trainer.logger", "false", "--trainer.enable_progress_bar", "false")


def run(*arguments: str | Path) -> int:
    return main(["gradients", *map(str, arguments)])


def test_table_files_and_wandb(tmp_path, capsys):
    assert run("--config", CONFIG, *QUICK, "--trainer.default_root_dir", tmp_path) == 0
    shown = capsys.readouterr()
    lines = [line for line in shown.out.splitlines() if str(tmp_path) not in line]
    assert max(map(len, lines)) <= 160
    rows = [line for line in shown.out.splitlines() if line.startswith(("Enumerate", "GumbelSoftmax *", "Pathwise "))]
    assert [row.split()[0] for row in rows] == ["Enumerate", "GumbelSoftmax", "Pathwise"]
    assert all(len(row) <= 100 for row in rows)
    assert shown.out.count("best unbiased, by variance x time: ") == 2
    best = next(line.split(": ")[1] for line in shown.out.splitlines() if line.startswith("best unbiased"))
    assert best in ("Enumerate", "LocalExpectation", "MeasureValued")  # exact ones: the fastest of them
    assert shown.out.count("best of all, by mean squared error x time: ") == 2
    assert "omitted: ScoreFunction(LearnedBaseline)" in shown.out
    assert "untrained weights" in shown.out
    assert "gradients of y" in shown.err  # the progress bar
    assert "wandb sync" in shown.out
    found = pd.read_csv(tmp_path / "gradients.csv")
    assert set(found.latent) == {"y", "z"}
    assert set(found.num_estimates) == {8}
    for name in ("y", "z"):
        assert imread(tmp_path / f"gradients_{name}.png")[..., :3].std() > 0.05
    (record,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    history = wandb_keys(record)["history"]
    for name in ("y", "z"):
        assert any(key.startswith(f"gradients/{name}/table") for key in history)
        assert any(key.startswith(f"gradients/{name}/figure") for key in history)


@pytest.mark.exhaustive
def test_trained_weights_and_nothing_is_written_over(tmp_path, capsys):
    folder, output = tmp_path / "run", tmp_path / "out"
    common = ("--trainer.default_root_dir", str(folder), *SILENT)
    assert main(["fit", "--config", str(CONFIG), "--trainer.max_epochs", "1", *common]) == 0
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    checkpoint = folder / "last.ckpt"
    assert run("--ckpt_path", checkpoint, *QUICK, *SILENT, "--latent", "y") == 0
    assert "weights of" in capsys.readouterr().out
    for _ in range(2):
        assert run("--config", CONFIG, "--ckpt_path", checkpoint, *QUICK, *SILENT, "--latent", "y", "-o", output) == 0
    assert {path.name for path in output.iterdir()} == {
        f"gradients{n}{end}" for n in ("", "-2") for end in ("_y.png", ".csv")
    }
    assert all(path.read_bytes() == content for path, content in before.items())
    assert (folder / "gradients.csv").is_file()
    other = ("--model.hidden", "[7]")
    assert run("--config", CONFIG, "--ckpt_path", checkpoint, *QUICK, *other) == 2
    assert "do not fit the model of the configuration" in capsys.readouterr().err
    # estimators may be others than in the training
    other = ("--model.latents.y.estimator", "GumbelSoftmax")
    assert (
        run("--config", CONFIG, "--ckpt_path", checkpoint, *QUICK, *SILENT, "--latent", "z", "-o", output, *other) == 0
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", CONFIG, "--num_estimates", "2"], "num_estimates=2 must be at least 8"),
        (["--config", CONFIG, "--latent", "x", *SILENT], "latent='x' not found among the latents 'y', 'z'"),
        (["--config", CONFIG, "--ckpt_path", "nowhere.ckpt"], "checkpoint nowhere.ckpt not found"),
        (["--config", CONFIG, "--model.hiden", "[3]"], "Did you mean 'hidden'?"),
        ([], "Pass --config"),
    ],
)
def test_wrong_arguments(tmp_path, capsys, arguments, message):
    folder = ["--trainer.default_root_dir", tmp_path] if arguments else []
    assert run(*arguments, *folder) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.csv"))


def test_help(capsys):
    with pytest.raises(SystemExit) as stop:
        run("--help")
    assert stop.value.code == 0
    assert "--num_estimates" in capsys.readouterr().out
