"""Arguments, start and end of Weights & Biases runs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb
from pytorch_lightning.loggers import WandbLogger

from vaekit.cli.fit import VaekitCLI
from vaekit.cli.logger import complete_loggers, start_run
from vaekit.cli.main import main
from vaekit.cli.wandb_files import attach_file

from .offline_runs import wandb_entries

CONFIG = Path(__file__).parents[2] / "configs/digits_gaussian.yaml"


def command(directory: Path, *flags: str) -> list[str]:
    return ["fit", "--config", str(CONFIG), f"--trainer.default_root_dir={directory}", "--trainer.max_epochs=1",
            "--data.batch_size=1000", "--model.hidden=[8]", "--trainer.enable_progress_bar=false", *flags]  # fmt: skip


def parsed(directory: Path, monkeypatch: pytest.MonkeyPatch, *flags: str) -> WandbLogger:
    """Return the logger of a command, which does not start."""
    loggers: list[Any] = []
    monkeypatch.setattr(VaekitCLI, "_run_subcommand", lambda cli, *_: loggers.extend(cli.trainer.loggers))
    assert main(command(directory, *flags)) == 0
    (logger,) = loggers
    assert isinstance(logger, WandbLogger)
    return logger


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], {"project": "vaekit", "name": "mine", "mode": "offline"}),
        (["--trainer.logger.project=p"], {"project": "p", "name": "mine", "mode": "offline"}),
        (["--trainer.logger.init_args.project=p", "--trainer.logger.name=n"], {"project": "p", "name": "n"}),
        (["--trainer.logger=WandbLogger", "--trainer.logger.tags=[a, b]"], {"project": "vaekit", "tags": ["a", "b"]}),
        (["--trainer.logger=WandbLogger", "--trainer.logger.offline=true"], {"mode": "offline", "name": "mine"}),
        (["--trainer.logger.group=g", "--trainer.logger.mode=disabled"], {"mode": "disabled", "group": "g"}),
    ],
)
def test_flags_change_the_default_logger(tmp_path, monkeypatch, flags, expected) -> None:
    logger = parsed(tmp_path / "mine", monkeypatch, *flags)
    assert {name: logger._wandb_init.get(name) for name in expected} == expected
    assert logger.save_dir == str(tmp_path / "mine")
    assert logger._log_model is True


def test_environment_variables_precede_defaults(tmp_path, monkeypatch) -> None:
    for name, value in (("PROJECT", "p"), ("NAME", "n"), ("MODE", "disabled")):
        monkeypatch.setenv(f"WANDB_{name}", value)
    logger = parsed(tmp_path / "mine", monkeypatch)
    assert (logger._wandb_init["project"], logger._wandb_init["name"]) == ("p", "n")
    assert logger._wandb_init["mode"] == "disabled"


@pytest.mark.parametrize(
    ("flag", "sweep", "expected"),
    [("", "", True), ("false", "", False), ("all", "", "all"), ("", "s", False), ("true", "s", True)],
)
def test_who_uploads_checkpoints(tmp_path, monkeypatch, flag, sweep, expected) -> None:
    """By default, runs do, but not the many members of a sweep."""
    if sweep:
        monkeypatch.setenv("WANDB_SWEEP_ID", sweep)
    flags = [f"--trainer.logger.log_model={flag}"] if flag else []
    assert parsed(tmp_path, monkeypatch, *flags)._log_model == expected


def test_settings_that_are_given_take_precedence() -> None:
    for given in ({"init_timeout": 7.0}, wandb.Settings(init_timeout=7.0)):
        logger = WandbLogger(settings=given)
        complete_loggers([logger], "name", log_model=None)
        settings = logger._wandb_init["settings"]
        assert (settings.init_timeout, settings.program, settings.x_disable_meta) == (7.0, "vaekit", True)
        assert logger._log_model is False


class Unreachable(WandbLogger):
    """A logger whose server cannot be reached."""

    error: Exception = wandb.errors.CommError("no route to host")

    @property
    def experiment(self) -> Any:
        if self._wandb_init.get("mode") != "offline":
            raise self.error
        return SimpleNamespace(define_metric=lambda *_, **__: None)


def test_a_server_that_is_not_reachable(monkeypatch, capsys) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    logger = Unreachable()
    complete_loggers([logger], "name", log_model=None)
    start_run(logger)
    assert "logged offline: no route to host" in capsys.readouterr().err
    with pytest.raises(wandb.errors.CommError):
        start_run(Unreachable(mode="online"))  # a choice of the user
    monkeypatch.setattr(Unreachable, "error", wandb.errors.AuthenticationError("the key is not valid"))
    with pytest.raises(wandb.errors.AuthenticationError):
        start_run(Unreachable())


def exit_code(directory: Path) -> int:
    (path,) = directory.glob("wandb/offline-run-*/run-*.wandb")
    (code,) = [entry.exit.exit_code for entry in wandb_entries(path) if entry.HasField("exit")]
    return code


def test_a_run_that_fails_is_marked(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert main(command(tmp_path, "--model.learning_rate=1e30", "--trainer.max_epochs=20")) == 2
    assert exit_code(tmp_path) == 1
    assert "wandb sync" in capsys.readouterr().err


def test_a_run_that_is_interrupted_is_marked(tmp_path, monkeypatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr("vaekit.callbacks.FigureWriter.on_train_epoch_end", interrupt)
    assert main(command(tmp_path)) == 130
    assert exit_code(tmp_path) == 255


def test_disabled(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr("vaekit.callbacks.FigureWriter.on_fit_end", lambda *_: None)
    assert main(command(tmp_path)) == 0
    assert "Weights" not in capsys.readouterr().out
    assert not list(tmp_path.glob("wandb/*run*"))


def test_a_comparison_is_a_group(tmp_path, monkeypatch, capsys) -> None:
    config = str(CONFIG).replace("gaussian", "discrete")
    flags = ["--trainer.logger=WandbLogger", "--trainer.logger.mode=offline", "--seeds", "0", "-o", str(tmp_path)]
    arguments = command(tmp_path, "--estimators", "ReinMax", "StraightThrough", *flags)
    assert main(["compare", "--config", config, *arguments[3:]]) == 0
    shown = capsys.readouterr()
    assert (shown.out + shown.err).count("wandb sync") == 3
    runs, keys = [], set()
    for path in tmp_path.glob("wandb/offline-run-*/run-*.wandb"):
        for entry in wandb_entries(path):
            if entry.HasField("run"):
                runs.append((entry.run.run_group, entry.run.job_type, entry.run.display_name))
            keys |= {item.key or item.nested_key[0] for item in entry.history.item}
    (group,) = {group for group, _, _ in runs}
    names = {f"digits_discrete {estimator} seed 0" for estimator in ("ReinMax", "StraightThrough")}
    assert {(kind, name) for _, kind, name in runs} == {("compare", group), *(("train", name) for name in names)}
    assert {"compare/summary", "compare/curves", "compare/figure", "val/elbo"} <= keys


def test_a_file_of_an_offline_run_is_uploaded_by_a_command(tmp_path) -> None:
    assert attach_file(tmp_path, tmp_path / "report.html", "report") is None
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb/history.jsonl").write_text('{"run_id": "abc", "project": "p", "entity": null}\n')
    line = attach_file(tmp_path, Path("report.html"), "report")
    assert line == "Upload with: wandb artifact put --type report --name p/report-abc report.html"
    (tmp_path / "wandb/history.jsonl").write_text('{"run_id": "../x", "project": "p", "entity": null}\n')
    assert attach_file(tmp_path, Path("report.html"), "report") is None


def test_errors_of_an_upload_are_warnings_and_the_other_uploads_come(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")

    def fail(*args: object) -> None:
        raise wandb.errors.CommError("no route\nto host")

    logged: list[Path] = []
    monkeypatch.setattr("vaekit.cli.training_messages.log_tables", fail)
    monkeypatch.setattr("vaekit.cli.training_messages.log_checkpoints", fail)
    monkeypatch.setattr("vaekit.cli.training_messages.log_file", lambda loggers, path, kind: logged.append(path))
    with (
        pytest.warns(UserWarning, match="Tables of codes not logged: CommError: no route to host. The run in"),
        pytest.warns(UserWarning, match="Checkpoints not logged: CommError"),
    ):
        assert main(command(tmp_path, "--figure", "none")) == 0
    assert logged == [tmp_path / "report.html"]
