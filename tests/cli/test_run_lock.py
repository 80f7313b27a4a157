"""One run at a time writes to a run directory; a killed one leaves no lock behind."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytorch_lightning as pl
from filelock import FileLock
from models.test_checkpoint import data, model_for
from models.tiny import trainer

import vaekit
from vaekit.callbacks import FigureWriter, RunCheckpoint
from vaekit.callbacks.run_directory import run_label
from vaekit.callbacks.run_lock import LOCK, lock_run, may_be_first_process, unlock_run
from vaekit.cli.main import main
from vaekit.exceptions import ConfigError

FIT = ["fit", "--config", str(Path(__file__).parents[2] / "configs/digits_gaussian.yaml"), "--trainer.max_steps=2",
       "--trainer.logger=false", "--trainer.enable_progress_bar=false", "--data.batch_size=512",
       "--trainer.accelerator=cpu"]  # fmt: skip


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FigureWriter, "on_fit_end", lambda *args: None)


@contextlib.contextmanager
def other_run(directory: Path) -> Iterator[None]:
    """Hold the directory in another process, which is killed at the end."""
    directory.mkdir(parents=True, exist_ok=True)
    read, write = os.pipe()
    process = os.fork()
    if not process:
        lock = lock_run(directory)  # kept: a lock that nobody refers to is released
        os.write(write, b"n" if lock is None else b"y")
        while True:
            time.sleep(60)
    try:
        assert os.read(read, 1) == b"y"
        yield
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(read), os.close(write)


def files(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_second_run_has_a_directory_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = tmp_path / "run"
    fit = [*FIT, "--trainer.default_root_dir", str(run)]
    assert main(fit) == 0
    first = files(run)
    assert {"last.ckpt", "config.yaml"} <= first.keys()
    with other_run(run):
        assert main(fit) == 0
        assert f"{run} is in use by another run; this run uses {run}/concurrent/1" in capsys.readouterr().err
        assert main([*fit, "--seed_everything=1"]) == 0
        found = files(run)
        assert {key: found[key] for key in first} == first
        assert {f"concurrent/{n}/{name}" for n in (1, 2) for name in ("last.ckpt", "config.yaml")} <= found.keys()
        assert f"default_root_dir: {run}/concurrent/2" in found["concurrent/2/config.yaml"].decode()
        vaekit.load(run / "last.ckpt")  # the lock does not apply to reading
        for start in ("last", str(run / "last.ckpt")):
            assert main([*fit, "--ckpt_path", start, "--trainer.max_steps=3"]) == 2
            error = capsys.readouterr().err.strip().splitlines()[-1]
            assert f"trainer.default_root_dir='{run}' is in use by another run. Wait until" in error
        again = files(run)
        assert {key: again[key] for key in found} == found
    assert main([*fit, "--ckpt_path", "last", "--trainer.max_steps=3"]) == 0  # the other was killed
    assert vaekit.load(run / "last.ckpt") is not None


def test_a_run_from_another_directory_moves_the_earlier_one_aside(tmp_path: Path) -> None:
    for name in "ab":
        assert main([*FIT, "--trainer.default_root_dir", str(tmp_path / name)]) == 0
    before = files(tmp_path / "b")
    start = ["--ckpt_path", str(tmp_path / "a/last.ckpt"), "--trainer.max_steps=3"]
    assert main([*FIT, *start, "--trainer.default_root_dir", str(tmp_path / "b")]) == 0
    kept = files(tmp_path / "b/earlier/1")
    assert kept == {key: value for key, value in before.items() if key != LOCK}


def test_one_of_several_starts_at_the_same_instant(tmp_path: Path) -> None:
    read, write = os.pipe()
    go = time.monotonic() + 0.3
    processes = []
    for _ in range(6):
        processes.append(os.fork())
        if not processes[-1]:
            time.sleep(max(0, go - time.monotonic()))
            lock = lock_run(tmp_path)
            os.write(write, b"n" if lock is None else b"y")
            while True:
                time.sleep(60)
    answers = b"".join(os.read(read, 1) for _ in processes)
    for process in processes:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    assert sorted(answers) == sorted(b"ynnnnn")
    lock = lock_run(tmp_path)
    assert lock is not None
    unlock_run(lock)


def test_loggers_know_a_second_run_by_the_name_of_the_directory() -> None:
    assert run_label(Path("runs/digits")) == "digits"
    assert run_label(Path("runs/digits/concurrent/1")) == "digits concurrent 1"


def test_training_in_python(tmp_path: Path) -> None:
    cells = data()
    with other_run(tmp_path), pytest.raises(ConfigError, match=r"RunCheckpoint: dirpath='.*' is in use by another run"):
        trainer(tmp_path, max_epochs=1, callbacks=[RunCheckpoint()]).fit(model_for("gaussian", cells), datamodule=cells)
    for _ in range(2):  # sequentially
        trainer(tmp_path, max_epochs=1, callbacks=[RunCheckpoint()]).fit(model_for("gaussian", cells), datamodule=cells)


def test_an_error_releases_the_directory(tmp_path: Path) -> None:
    class Break(pl.Callback):
        def on_train_start(self, *args) -> None:
            raise RuntimeError("broken")

    cells = data()
    with pytest.raises(RuntimeError, match="broken"):
        trainer(tmp_path, max_epochs=1, callbacks=[RunCheckpoint(), Break()]).fit(
            model_for("gaussian", cells), datamodule=cells
        )
    with other_run(tmp_path):
        pass


def test_a_run_that_does_not_begin_leaves_nothing(tmp_path: Path) -> None:
    run = tmp_path / "new"
    assert main([*FIT, "--trainer.default_root_dir", str(run), "--data.name", "nothing"]) == 2
    assert not run.exists()
    assert main([*FIT, "--trainer.default_root_dir", str(run), "--trainer.fast_dev_run=true"]) == 0
    assert not (run / LOCK).exists()
    own = tmp_path / "made by the user"
    own.mkdir()
    assert main([*FIT, "--trainer.default_root_dir", str(own), "--data.name", "nothing"]) == 2
    assert not list(own.iterdir())  # and it is still there


def test_other_processes_of_a_run_are_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    assert may_be_first_process()
    for name in ("LOCAL_RANK", "RANK", "NODE_RANK", "SLURM_PROCID"):
        monkeypatch.setenv(name, "0")
    assert may_be_first_process()
    for name in ("LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "1")
            assert not may_be_first_process()


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*args, **kwargs) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(FileLock, "acquire", missing)
    with pytest.warns(UserWarning, match=r"on a file system without locks .*Use a separate directory for each run"):
        lock = lock_run(tmp_path)
    assert lock is not None
    unlock_run(lock)
