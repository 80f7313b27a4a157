"""Runs of one configuration with consecutive seeds: complete, independent of each other, and resumable."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from vaekit.callbacks import FigureWriter, GradientClippingMonitor
from vaekit.cli.main import main
from vaekit.cli.seed_runs import SeedRuns


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FigureWriter, "on_fit_end", lambda *args: None)


def fit(directory: Path, *more: str) -> int:
    return main(["fit", "--config", "digits_gaussian", "--trainer.default_root_dir", str(directory), "--model.hidden",
                 "[8]", "--data.batch_size=500", "--trainer.max_epochs=2", "--trainer.logger=false",
                 "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu", *more])  # fmt: skip


def checkpoint(directory: Path) -> dict[str, Any]:
    return torch.load(directory / "last.ckpt", weights_only=True)


def same_weights(first: Path, second: Path) -> bool:
    one, other = checkpoint(first)["state_dict"], checkpoint(second)["state_dict"]
    return one.keys() == other.keys() and all(value.equal(other[key]) for key, value in one.items())


def rows(directory: Path) -> list[dict[str, str]]:
    with (directory / "seeds.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_each_run_is_that_of_its_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "set"
    assert fit(run, "--seeds=2", "--seed_everything=3") == 0
    out, err = capsys.readouterr()
    assert {path.name for path in run.iterdir()} - {".lock"} == {"seed_3", "seed_4", "seeds.csv"}
    assert fit(tmp_path / "single", "--seed_everything=4") == 0
    assert same_weights(run / "seed_4", tmp_path / "single")
    assert not same_weights(run / "seed_3", tmp_path / "single")
    splits = [checkpoint(run / name)["data_registry"]["split_indices"] for name in ("seed_3", "seed_4")]
    assert all(value.equal(splits[1][part]) for part, value in splits[0].items())
    config = yaml.safe_load((run / "seed_4/config.yaml").read_text())
    assert (config["seed_everything"], "seeds" in config) == (4, False)
    table = rows(run)
    assert [(row["seed"], row["steps"]) for row in table] == [("3", "6"), ("4", "6")]
    for row in table:
        best = checkpoint(run / f"seed_{row['seed']}")["callbacks"]
        (state,) = [value for key, value in best.items() if key.startswith("RunCheckpoint")]
        assert float(row["val_elbo"]) == pytest.approx(float(state["current"]))
        assert f"{float(row['val_elbo']):.2f}" in out
    assert "mean" in out
    assert "95 %" in out
    assert "seed 4 (run 2 of 2): started" in err
    for part in ("seed_3", "seed_4"):  # the directory is that of a single run
        assert main(["evaluate", str(run / part / "last.ckpt"), "--num_samples", "2"]) == 0


def test_an_interrupted_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C in the second of three runs: the first is kept, the second resumed, the third started."""

    def interrupt(self: Any, trainer: Any, *args: Any) -> None:
        if torch.initial_seed() == 1 and trainer.current_epoch == 1:
            raise KeyboardInterrupt

    run = tmp_path / "set"
    with monkeypatch.context() as patch:
        patch.setattr(GradientClippingMonitor, "on_train_batch_start", interrupt)
        assert fit(run, "--seeds=3") == 130
    err = capsys.readouterr().err
    assert f"saved {run}/seed_1/last.ckpt. Resume with --ckpt_path last" in err
    assert not (run / "seed_2").exists()
    assert [row["seed"] for row in rows(run)] == ["0"]
    first = (run / "seed_0/last.ckpt").read_bytes()
    assert fit(run, "--seeds=3", "--ckpt_path=last") == 0
    err = capsys.readouterr().err
    assert "seed 0 (run 1 of 3): kept, because it is finished" in err
    assert f"seed 1 (run 2 of 3): resumed from {run}/seed_1/last.ckpt" in err
    assert "seed 2 (run 3 of 3): started" in err
    assert (run / "seed_0/last.ckpt").read_bytes() == first
    assert [row["seed"] for row in rows(run)] == ["0", "1", "2"]
    assert fit(tmp_path / "single", "--seed_everything=1") == 0
    assert same_weights(run / "seed_1", tmp_path / "single")

    assert fit(run, "--seeds=3", "--ckpt_path=last", "--model.hidden=[9]") == 2  # no mixture of models
    assert "hidden" in capsys.readouterr().err
    assert (run / "seed_0/last.ckpt").read_bytes() == first
    table = rows(run)
    assert fit(run, "--seeds=3", "--ckpt_path=last", "--trainer.log_every_n_steps=1") == 0  # all are at their end
    assert [(row["val_elbo"], row["steps"]) for row in rows(run)] == [(row["val_elbo"], row["steps"]) for row in table]
    assert fit(run, "--seeds=2", "--ckpt_path=last", "--trainer.max_epochs=3") == 0  # both go on
    assert [(row["seed"], row["steps"]) for row in rows(run)] == [("0", "9"), ("1", "9"), ("2", "6")]


def test_an_earlier_set_is_moved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "set"
    assert fit(run, "--seeds=2") == 0
    before = (run / "seed_1/last.ckpt").read_bytes()
    assert fit(run, "--seeds=2", "--seed_everything=5") == 0
    assert f"Moved the earlier run in {run} to {run}/earlier/1" in capsys.readouterr().err
    assert {path.name for path in run.iterdir()} >= {"seed_5", "seed_6", "seeds.csv", "earlier"}
    assert not (run / "seed_1").exists()
    assert (run / "earlier/1/seed_1/last.ckpt").read_bytes() == before
    assert fit(run) == 0  # a single run moves a set, too
    assert (run / "earlier/2/seeds.csv").is_file()
    assert not (run / "seed_5").exists()


def test_a_key_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "two.yaml").write_text("seeds: 2\n")
    assert fit(tmp_path / "set", "--config", str(tmp_path / "two.yaml"), "--trainer.fast_dev_run=true") == 0
    assert not (tmp_path / "set").exists()  # one run, which writes nothing
    assert fit(tmp_path / "set", "--config", str(tmp_path / "two.yaml")) == 0
    assert [row["seed"] for row in rows(tmp_path / "set")] == ["0", "1"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seeds=0"], "seeds=0 must be at least 1"),
        (["--seeds=-2"], "seeds=-2 must be at least 1"),
        (["--seeds=many"], "seeds"),
        (["--seeds=2.5"], "seeds"),
        (["--seeds=null"], "seeds"),
        (["--seeds"], "seeds"),
        (["--seeds=2", "--seed_everything=4294967295"], "seed_everything + seeds - 1=4294967296"),
        (["--seeds=2", "--ckpt_path=last"], "seed_0 to seed_1 not found in"),
        (["--seeds=2", "--ckpt_path=a.ckpt"], "ckpt_path='a.ckpt' is a checkpoint of one run"),
        (["--seeds=2", "--data.name=nothing"], "nothing"),
        (
            ["--seeds=2", "--trainer.callbacks+=RunCheckpoint", "--trainer.callbacks.dirpath=x"],
            "/x' would be the",
        ),
        (["--seeds=2", "--trainer.logger=WandbLogger", "--trainer.logger.id=x"], "id='x' would be"),
    ],
)
def test_wrong_flags(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, flags: list[str], message: str
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert fit(tmp_path / "set", *flags) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("name", ["WANDB_SWEEP_ID", "WANDB_RUN_ID"])
def test_a_run_of_a_sweep_is_one(tmp_path, capsys, monkeypatch, name) -> None:
    monkeypatch.setenv(name, "abc")
    assert fit(tmp_path / "set", "--seeds=2") == 2
    assert f"{name} is set, so that the runs would be one run" in capsys.readouterr().err


def test_runs_are_grouped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []

    def stop(trainer: Any) -> None:
        found.append({key: trainer.loggers[0]._wandb_init.get(key) for key in ("name", "group")})
        raise KeyboardInterrupt

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr("vaekit.cli.fit.start_loggers", stop)
    run = tmp_path / "mine"
    assert fit(run, "--seeds=2", "--trainer.logger=true") == 130
    assert fit(run, "--trainer.logger=true") == 130
    monkeypatch.setenv("WANDB_RUN_GROUP", "given")
    assert fit(run, "--seeds=2", "--trainer.logger=true") == 130
    expected = [("mine seed_0", "mine"), ("mine", None), ("mine seed_0", None)]  # W&B reads the variable
    assert [(each["name"], each["group"]) for each in found] == expected


def test_a_table_that_was_edited(tmp_path: Path) -> None:
    runs = SeedRuns(tmp_path, range(5))
    assert runs.finished() == {}
    for seed in range(5):
        (tmp_path / f"seed_{seed}").mkdir()
        if seed:
            content = {"hyper_parameters": {"_class_path": "vaekit.VAE"}, "global_step": 3}
            torch.save(content, tmp_path / f"seed_{seed}/last.ckpt")
    row = "seed,val_elbo,steps,config_hash\n0,-1.5,3,a\nx,1,2,a\n1,-2.5,3,a\n2,-1\n3,-1.5,2,a\n"
    (tmp_path / "seeds.csv").write_text(row)
    assert list(runs.finished()) == [1]  # 0 lacks its checkpoint, 2 its steps, and the checkpoint of 3 is a later one
    (tmp_path / "seeds.csv").write_bytes(b"\xff\x00\n\n")
    assert runs.finished() == {}


def test_without_a_validation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(tmp_path / "set", "--seeds=2", "--trainer.limit_val_batches=0") == 0
    assert "mean" not in capsys.readouterr().out
    assert [row["val_elbo"] for row in rows(tmp_path / "set")] == ["nan", "nan"]
