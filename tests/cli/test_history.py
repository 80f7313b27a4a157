"""A killed run loses no logged row, and the resumed one continues the same Weights & Biases run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning.loggers import WandbLogger

from vaekit.callbacks.history import History, read_history
from vaekit.cli.fit import VaekitCLI
from vaekit.cli.main import main

from .offline_runs import wandb_entries

CONFIG = Path(__file__).parents[2] / "configs/digits_gaussian.yaml"
KILLED = """
import os, signal, sys
from vaekit.cli.main import main
from vaekit.callbacks.clipping_monitor import GradientClippingMonitor
def kill(self, trainer, *args):
    if trainer.current_epoch == 2:
        os.kill(os.getpid(), signal.SIGKILL)
GradientClippingMonitor.on_train_batch_start = kill
main(sys.argv[1:])
"""


def command(folder: Path, *more: str) -> list[str]:
    return ["fit", "--config", str(CONFIG), "--trainer.default_root_dir", str(folder), "--trainer.max_epochs", "3",
            "--data.batch_size", "1000", "--model.hidden", "[8]", "--trainer.enable_progress_bar", "false",
            *more]  # fmt: skip


def epochs(path: Path) -> list[int]:
    found = []
    for entry in wandb_entries(path):
        row = {(item.key or "/".join(item.nested_key)): item.value_json for item in entry.history.item}
        if "val/elbo" in row:
            found.append(int(float(row["epoch"])))
    return found


def test_kill_and_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    quiet: Any = dict.fromkeys(("stdout", "stderr"), subprocess.DEVNULL)  # a pipe would stay open in W&B's own process
    # a command in a shell starts its own W&B service; the one of this process would report the run as in use
    environment = {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"}
    killed = subprocess.run([sys.executable, "-c", KILLED, *command(tmp_path)], check=False, env=environment, **quiet)
    assert killed.returncode == -signal.SIGKILL
    (first,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    run_id, rows = read_history(tmp_path / "wandb/history.jsonl")
    assert [row["metrics"]["epoch"] for row in rows if "val/elbo" in row.get("metrics", {})] == [0, 1]
    monkeypatch.setattr("vaekit.callbacks.FigureWriter.on_fit_end", lambda *_: None)
    assert main(command(tmp_path, "--ckpt_path", "last")) == 0
    (second,) = set(tmp_path.glob("wandb/offline-run-*/run-*.wandb")) - {first}
    assert first.name == second.name == f"run-{run_id}.wandb"
    assert epochs(second) == [0, 1, 2]
    assert read_history(tmp_path / "wandb/history.jsonl")[0] == run_id


class Server:
    """Stands for W&B: it has as many rows as ``step`` says."""

    def __init__(self, step: int) -> None:
        self.step = step


def logger_with(rows_known: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, list[Any]]:
    logged: list[Any] = []
    logger = WandbLogger(offline=True)
    logger._experiment = Server(rows_known)  # type: ignore[assignment]
    monkeypatch.setattr(logger, "log_metrics", lambda metrics, step: logged.append((step, metrics)))
    return logger, logged


@pytest.mark.parametrize(
    ("known", "steps", "expected"), [(0, 3, [0, 1, 2]), (0, 9, [0, 1, 2, 3, 4]), (4, 3, [4]), (5, 3, [])]
)
def test_rows_that_are_missing(tmp_path, monkeypatch, known, steps, expected) -> None:
    logger, logged = logger_with(known, monkeypatch)
    before = History(tmp_path, logger)
    for step in range(5):
        before.log_metrics({"a": step}, step)
    with before.path.open("a") as file:
        file.write('{"step": 5, "metr')  # the process was killed here
    after = History(tmp_path, logger, steps)
    after.start()
    assert after.run_id == before.run_id
    assert [step for step, _ in logged] == expected
    after.log_metrics({"a": 7.0}, 7)
    kept = 5 if known else len(expected)
    assert [row["step"] for row in read_history(after.path)[1]] == [*range(kept), 7]


def test_images_of_a_history_are_of_its_run(tmp_path, monkeypatch) -> None:
    """A run directory may be somebody else's: no other image of the user is logged."""
    logger, _ = logger_with(0, monkeypatch)
    logged: list[str] = []
    monkeypatch.setattr(logger, "log_image", lambda key, images, step: logged.extend(images))
    run = tmp_path / "run"
    names = [tmp_path / "private.png", run / "figures.png", run / "link.png", run / "../private.png"]
    before = History(run, logger)
    before.log_image("figures/a", [str(name) for name in names], 1)
    names[0].touch()
    names[1].touch()
    names[2].symlink_to(names[0])
    History(run, logger, 3).start()
    assert logged == [str(names[1])]


def test_a_new_run_has_a_new_id(tmp_path, monkeypatch) -> None:
    logger, logged = logger_with(0, monkeypatch)
    first = History(tmp_path, logger)
    first.log_metrics({"a": 1.0}, 1)
    second = History(tmp_path, logger)
    second.start()
    assert second.run_id != first.run_id
    assert not logged
    assert read_history(second.path) == (second.run_id, [])
    assert len(second.path.read_text().splitlines()) == 3  # and the first one's rows are still there
    monkeypatch.setenv("WANDB_RUN_ID", "given")
    assert History(tmp_path, logger, 5).run_id == "given"


@pytest.mark.parametrize("content", ["", "x", "[]\n3\n", '{"run_id": "../../x"}\n', '{"run_id": 3}\n', "\xff"])
def test_files_that_are_no_history(tmp_path, content) -> None:
    (tmp_path / "history.jsonl").write_text(content, encoding="latin-1")
    assert read_history(tmp_path / "history.jsonl") == (None, [])


def test_names_of_a_sweep(tmp_path, monkeypatch) -> None:
    names = []

    def stop(cli: VaekitCLI, *args: Any) -> None:
        names.append(cli.trainer.logger._wandb_init["name"])

    monkeypatch.setattr(VaekitCLI, "_run_subcommand", stop)
    assert main(command(tmp_path / "mine")) == 0
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    assert main(command(tmp_path / "mine", "--seed_everything", "2", "--model.estimator", "Pathwise")) == 0
    assert names == ["mine", "digits_gaussian Pathwise seed 2"]


def test_names_of_a_comparison(tmp_path, monkeypatch, capsys) -> None:
    found = []

    def stop(trainer: Any) -> None:
        found.append(trainer.logger._wandb_init["name"])
        if len(found) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("vaekit.cli.logger_start.start_loggers", stop)
    monkeypatch.setattr("vaekit.cli.logger.finish_run", lambda *_: None)
    monkeypatch.setattr("pytorch_lightning.Trainer.fit", lambda *args, **kwargs: None)
    flags = ["--trainer.logger", "WandbLogger", "--trainer.logger.offline", "true"]
    config = str(CONFIG).replace("gaussian", "discrete")
    common = ["compare", "--config", config, "--data.batch_size", "1000", "--trainer.default_root_dir", str(tmp_path)]
    assert main([*common, *flags, "--estimators", "ReinMax", "StraightThrough", "--seeds", "1"]) == 130
    assert found == ["digits_discrete ReinMax seed 1", "digits_discrete StraightThrough seed 1"]
