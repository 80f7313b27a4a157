"""Faults during a command: full disks, Ctrl-C, losses that are not finite. No earlier file is lost."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import anndata
import numpy as np
import pytest
import torch
import yaml
from broken_disks import full_disk, read_only
from pytorch_lightning import Callback
from pytorch_lightning.cli import LightningCLI
from pytorch_lightning.loggers import CSVLogger

from vaekit.callbacks import TerminateOnNonFinite
from vaekit.callbacks import run_callbacks as callbacks
from vaekit.cli import cell_results
from vaekit.cli import fit as training
from vaekit.cli.cells import write_fields
from vaekit.cli.main import main
from vaekit.exceptions import OutputError

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(path for path in (ROOT / "configs").glob("*.yaml") if "sweep" not in path.stem)


def fit(folder: Path, *arguments: str | Path, config: str = "digits_gaussian") -> int:
    common = ["fit", "--config", str(ROOT / f"configs/{config}.yaml"), "--trainer.default_root_dir", str(folder)]
    return main([*common, "--trainer.logger", "false", "--data.batch_size", "300", *map(str, arguments)])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the packaged cells, cut short."""
    folder = tmp_path_factory.mktemp("run")
    assert fit(folder, "--trainer.max_steps", "4", config="pbmc_mixed") == 0
    return folder


@pytest.fixture
def cells(tmp_path: Path) -> Path:
    from vaekit.data.cells.sources import pbmc68k

    source = pbmc68k()[:200]
    made = anndata.AnnData(source.layers["counts"].copy(), var=source.var[[]].copy())
    (tmp_path / "in").mkdir()
    made.write_h5ad(tmp_path / "in" / "cells.h5ad")
    return tmp_path / "in" / "cells.h5ad"


class TestEmbed:
    """The input file, the checkpoint and the previous output stay unchanged."""

    @pytest.fixture(autouse=True)
    def nothing_is_lost(self, trained: Path, cells: Path, tmp_path: Path):
        self.out = tmp_path / "out" / "out.h5ad"
        self.out.parent.mkdir()
        self.out.write_bytes(b"precious")
        self.command = ["embed", str(trained / "last.ckpt"), str(cells), "-o", str(self.out), "--overwrite"]
        files = (cells, trained / "last.ckpt", self.out)
        before = [path.read_bytes() for path in files]
        yield
        assert [path.read_bytes() for path in files] == before
        assert list(self.out.parent.iterdir()) == [self.out]
        assert list(cells.parent.iterdir()) == [cells]

    @pytest.mark.parametrize("room", [0, 5000, 100_000])
    def test_full_disk(self, capsys: pytest.CaptureFixture[str], room: int) -> None:
        with full_disk(room):
            assert main(self.command) == 2
        assert f"{self.out} could not be written" in capsys.readouterr().err

    def test_read_only_folder(self, capsys: pytest.CaptureFixture[str]) -> None:
        with read_only(self.out.parent):
            assert main(self.command) == 2
        assert str(self.out.parent) in capsys.readouterr().err

    def test_ctrl_c_while_it_is_written(self, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
        def half(file, place, values) -> None:
            write_fields(file, place, values)
            file.flush()
            if place == "obsm":
                os.kill(os.getpid(), signal.SIGINT)

        monkeypatch.setattr(cell_results, "write_fields", half)
        assert main(self.command) == 130
        assert "stopped" in capsys.readouterr().err


class TestFit:
    def test_full_disk(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert fit(tmp_path, "--trainer.max_epochs", "1") == 0
        before = (tmp_path / "last.ckpt").read_bytes()
        with full_disk(20_000):
            assert fit(tmp_path, "--trainer.max_epochs", "2", "--ckpt_path", "last") == 2
        message = capsys.readouterr().err
        assert f"{tmp_path}/best.ckpt could not be written" in message or f"{tmp_path}/last.ckpt could" in message
        assert (tmp_path / "last.ckpt").read_bytes() == before
        assert [path.name for path in tmp_path.glob(".*")] == [".lock"]  # no part of a checkpoint
        parts = [tmp_path / name for name in (".last.ckpt.4194400.part", "figures/.umap.png.4194400.part")]
        parts += [tmp_path / "figures/epoch_1/.umap.png.4194400.part", tmp_path / f"figures/.b.png.{os.getppid()}.part"]
        (tmp_path / "figures/epoch_1").mkdir()
        for part in parts:  # of killed processes (beyond the largest number of a process), and of one that runs
            part.touch()
        assert fit(tmp_path, "--trainer.max_epochs", "2", "--ckpt_path", "last") == 0
        assert [part.exists() for part in parts] == [False, False, False, True]
        assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 10

    def test_full_disk_under_a_logger(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Python's error of a file that is open does not name it."""
        with full_disk(100):
            assert fit(tmp_path, "--trainer.max_steps", "1", "--trainer.logger", "CSVLogger") == 2
        message = capsys.readouterr().err.splitlines()[-1]
        assert f"vaekit fit: error: {tmp_path} could not be written: [Errno 27]" in message

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE])
    def test_errors_of_the_system_without_a_path(self, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
        def fails(self: LightningCLI, subcommand: str) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(LightningCLI, "_run_subcommand", fails)
        cli = training.VaekitCLI.__new__(training.VaekitCLI)
        cli.directory, cli.seeds = Path("runs/a"), range(1)
        cli.trainer = SimpleNamespace(loggers=[CSVLogger("logs/b"), CSVLogger("runs/a")])
        with pytest.raises(OutputError, match=rf"runs/a or logs/b could not be written: \[Errno {number}\]"):
            cli._run_subcommand("fit")

    def test_read_only_folder(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "locked").mkdir()
        with read_only(tmp_path / "locked"):
            assert fit(tmp_path / "locked" / "run", "--trainer.max_epochs", "1") == 2
        assert str(tmp_path / "locked" / "run") in capsys.readouterr().err

    def test_ctrl_c(self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
        class Impatient(Callback):
            def on_train_batch_start(self, trainer, *args) -> None:
                if trainer.global_step == 7:
                    os.kill(os.getpid(), signal.SIGINT)

        monkeypatch.setattr(callbacks, "PosteriorCollapseMonitor", Impatient)  # a callback of every run
        assert fit(tmp_path, "--trainer.max_epochs", "3") == 130
        assert (
            f"Training interrupted; saved {tmp_path}/last.ckpt. Resume with --ckpt_path last" in capsys.readouterr().err
        )
        assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 5

    def test_a_loss_that_is_no_number(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        steps = ("--trainer.max_epochs", "4")
        assert fit(tmp_path, *steps, "--model.learning_rate", "1e30", "--trainer.gradient_clip_val", "null") == 2
        message = capsys.readouterr().err
        assert "vaekit fit: error: the loss is " in message
        assert "The batch has observations" in message
        assert "and 280 more" in message

    def test_all_runs_are_watched(self) -> None:
        assert any(isinstance(callback, TerminateOnNonFinite) for callback in callbacks.run_callbacks())

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--model.learning_rate", "0.5"], "of the model: learning_rate was 0.002, is 0.5"),
            (["--model.latent_dim", "3"], "of the model: latent_dim was 8, is 3"),
            (["--model.estimator", "ScoreFunction"], "estimator was {'class_path': 'vaekit.estimators.Pathwise'"),
            (["--data.batch_size", "99"], "of the data: batch_size was 300, is 99"),
            (["--trainer.gradient_clip_val", "0.5"], "of the training: gradient_clip_val was 100.0, is 0.5"),
            (["--trainer.gradient_clip_val", "null"], "of the training: gradient_clip_val was 100.0, is None"),
            (["--seed_everything", "7"], "of the training: seed_everything was 0, is 7"),
            (
                ["--data.seed", "5", "--data.binarization", "fixed"],
                "binarization was 'dynamic', is 'fixed'; seed was 0",
            ),
            (
                ["--config", str(ROOT / "configs/digits_discrete.yaml")],
                "_class_path was 'vaekit.GaussianVAE', is 'vaekit.DiscreteVAE'",
            ),
        ],
    )
    def test_going_on_with_other_arguments(self, tmp_path_factory, capsys, arguments: list[str], words: str) -> None:
        folder = tmp_path_factory.getbasetemp() / "resumed"
        if not (folder / "last.ckpt").exists():
            assert fit(folder, "--trainer.max_steps", "2") == 0
        before = (folder / "last.ckpt").read_bytes()
        assert fit(folder, "--trainer.max_steps", "4", "--ckpt_path", "last", *arguments,
                   "--trainer.default_root_dir", folder) == 2  # fmt: skip
        message = capsys.readouterr().err
        assert "cannot be resumed with other arguments" in message
        assert words in message
        assert (folder / "last.ckpt").read_bytes() == before


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_gradients_are_clipped_in_every_shipped_configuration(path: Path) -> None:
    assert yaml.safe_load(path.read_text())["trainer"]["gradient_clip_val"] > 0


def test_the_share_of_clipped_steps_is_logged(tmp_path: Path) -> None:
    arguments = ("--trainer.max_epochs", "2", "--trainer.gradient_clip_val", "1e-6", "--trainer.logger", "CSVLogger")
    assert fit(tmp_path, *arguments) == 0
    table = np.genfromtxt(next(tmp_path.glob("lightning_logs/*/metrics.csv")), delimiter=",", names=True,
                          deletechars="")  # fmt: skip
    shares = table["train/clip_fraction"]
    assert shares[np.isfinite(shares)].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("command", ["compare", "de", "denoise", "embed", "evaluate", "export", "sample", "traverse"])
def test_a_wrong_flag_is_one_line(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "model.ckpt", "--wrong", "3"]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"vaekit {command}: error: ")
    assert message.endswith(f". See vaekit {command} --help\n")
    assert message.count("\n") == 1


def test_a_full_standard_output() -> None:
    code = "import sys; from vaekit.cli import main; main._runner = lambda command: lambda arguments: print('result'); "
    code += "sys.exit(main.main(['embed']))"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=environment,
        )
    assert done.returncode == 2
    assert done.stderr == "vaekit embed: error: [Errno 28] No space left on device: 'standard output'\n"


def test_a_reader_that_leaves() -> None:
    """``vaekit configs | head -1`` prints no error, whether the output is short or longer than a pipe holds."""
    for count in (1, 100_000):
        code = "import sys; from vaekit.cli import main; main._runner = lambda command: lambda arguments: "
        code += f"print('result ' * {count}); sys.exit(main.main(['embed']))"
        reader, writer = os.pipe()
        os.close(reader)
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
        )
        os.close(writer)
        assert (done.returncode, done.stderr) == (141, "")


def test_a_missing_checkpoint_names_those_that_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "cells.ckpt"]) == 2
    assert "cells.ckpt not found. `vaekit fit` writes RUN/last.ckpt" in capsys.readouterr().err
    (tmp_path / "runs" / "blood").mkdir(parents=True)
    (tmp_path / "runs" / "blood" / "last.ckpt").touch()
    assert main(["evaluate", "cells.ckpt"]) == 2
    assert "'runs/blood/last.ckpt'" in capsys.readouterr().err
