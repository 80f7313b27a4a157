"""Atomic writes on full disks, in read-only directories and in interrupted programs."""

from __future__ import annotations

import os
from pathlib import Path

import anndata
import numpy as np
import pytest
import torch
from broken_disks import full_disk, read_only
from matplotlib.figure import Figure

from vaekit._core.atomic import atomic_write, remove_partial_files, try_writing
from vaekit.callbacks.checkpoints import AtomicCheckpointIO
from vaekit.cli.cells import write_h5ad
from vaekit.exceptions import OutputError


def large_figure() -> Figure:
    figure = Figure()
    figure.add_subplot().imshow(np.random.default_rng(0).random((300, 300)))
    return figure


def cells() -> anndata.AnnData:
    return anndata.AnnData(np.random.default_rng(0).random((300, 200), dtype=np.float32))


def figure(path: Path) -> None:
    with atomic_write(path) as temporary:
        large_figure().savefig(temporary, format="png")


def checkpoint(path: Path) -> None:
    AtomicCheckpointIO().save_checkpoint({"state_dict": {"w": torch.zeros(100_000)}}, path)


def h5ad(path: Path) -> None:
    with atomic_write(path) as temporary:
        write_h5ad(cells(), temporary, path)


WRITERS = {
    "h5ad": h5ad,
    "checkpoint": checkpoint,
    "figure": figure,
}


@pytest.mark.parametrize("old", [None, b"precious"])
@pytest.mark.parametrize("room", [0, 2000, 30_000])
@pytest.mark.parametrize("kind", list(WRITERS))
def test_full_disk(tmp_path: Path, kind: str, room: int, old: bytes | None) -> None:
    path = tmp_path / "out.file"
    if old is not None:
        path.write_bytes(old)
    with full_disk(room), pytest.raises(OutputError, match=r"out\.file could not be written"):
        WRITERS[kind](path)
    assert [each.name for each in tmp_path.iterdir()] == ([] if old is None else ["out.file"])
    assert old is None or path.read_bytes() == old
    WRITERS[kind](path)  # later writes succeed
    assert path.stat().st_size > 30_000


@pytest.mark.parametrize("kind", list(WRITERS))
def test_read_only_directory(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out.file"
    path.write_bytes(b"precious")
    with read_only(tmp_path), pytest.raises(OutputError, match=r"out\.file could not be written"):
        WRITERS[kind](path)
    assert path.read_bytes() == b"precious"
    assert len(list(tmp_path.iterdir())) == 1


def test_missing_directory(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"none/out\.file could not be written"),
        atomic_write(tmp_path / "none/out.file"),
    ):
        pass


@pytest.mark.parametrize(
    "stopped", [KeyboardInterrupt, SystemExit, ZeroDivisionError, RuntimeError, torch.OutOfMemoryError]
)
def test_interrupted_writes_leave_no_file(tmp_path: Path, stopped: type[BaseException]) -> None:
    path = tmp_path / "out.file"
    path.write_bytes(b"precious")

    def stop_halfway() -> None:
        with atomic_write(path) as temporary:
            temporary.write_bytes(b"half")
            assert temporary.parent == path.parent
            raise stopped

    with pytest.raises(stopped):
        stop_halfway()
    assert path.read_bytes() == b"precious"
    assert len(list(tmp_path.iterdir())) == 1


def test_files_of_killed_processes_are_removed(tmp_path: Path) -> None:
    process = os.fork()
    if not process:  # a process that dies while it writes
        with atomic_write(tmp_path / "last.ckpt") as temporary:
            temporary.write_bytes(b"half")
            os.kill(os.getpid(), 9)
    os.waitpid(process, 0)
    (tmp_path / "other.txt").write_text("x")
    assert len(list(tmp_path.iterdir())) == 2
    remove_partial_files(tmp_path, "*.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["other.txt"]


@pytest.mark.parametrize("name", ["[1]", "a*", "last.ckpt"])
def test_the_next_writer_removes_files_of_killed_processes(tmp_path: Path, name: str) -> None:
    stale, other, running = (
        tmp_path / part for part in (f".{name}.4194400.part", ".other.4194400.part", f".{name}.{os.getppid()}.part")
    )
    for part in (stale, other, running):
        part.touch()
    with atomic_write(tmp_path / name) as temporary:
        temporary.write_text("whole")
    assert sorted(tmp_path.iterdir()) == sorted([other, running, tmp_path / name])


def test_try_writing(tmp_path: Path) -> None:
    path = tmp_path / "out.file"
    path.write_bytes(b"precious")
    try_writing(path)
    for broken in (full_disk(1000), read_only(tmp_path)):
        with broken, pytest.raises(OutputError, match=r"out\.file could not be written"):
            try_writing(path)
    with pytest.raises(OutputError, match="is a directory"):
        try_writing(tmp_path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"precious"
