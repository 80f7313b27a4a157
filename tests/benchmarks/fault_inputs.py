"""Part of faults.py: full disks, Ctrl-C, numbers that are none, and hostile files, each given to a real process."""

from __future__ import annotations

import copy
import ctypes
import hashlib
import io
import json
import os
import pickle
import resource
import shutil
import signal
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import anndata
import h5py
import numpy as np
import torch
import yaml
from scipy import sparse

CONFIGS = Path(__file__).parents[2] / "configs"
LIMIT = 120.0  # seconds after which a process counts as hanging


class Result(NamedTuple):
    """What came of a fault."""

    fault: str
    happened: str
    lost: str


class Bomb:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


class Bench:
    """A directory with cells, a trained model and what must not change, and the processes that are run on them."""

    def __init__(self, folder: Path, start: Callable[..., int], wait: Callable[..., int | None]) -> None:
        self.folder, self.start, self.wait = folder, start, wait
        self.trace, self.cells, self.run = folder / "it_ran", folder / "cells.h5ad", folder / "run"
        self.checkpoint, self.log = self.run / "last.ckpt", folder / "log"
        sys.path.insert(0, str(folder))  # where evil.py is
        generator = np.random.default_rng(0)
        counts = generator.poisson(generator.gamma(0.5, 2.0, 400), (1500, 400)).astype(np.float32)
        adata = anndata.AnnData(counts)
        adata.obs["kind"] = generator.choice(["a", "b"], 1500)
        adata.write_h5ad(self.cells)
        (folder / "evil.py").write_text(f"open({str(self.trace)!r}, 'w').close()\nclass Thing: pass\n")
        status, message = self.command(self.fit())
        assert status == 0, message
        self.results: list[Result] = []

    def fit(self, *more: str) -> list[str]:
        """Return the command that trains for a few steps."""
        return [
            "fit",
            "--config",
            str(CONFIGS / "pbmc_mixed.yaml"),
            "--data.path",
            str(self.cells),
            "--trainer.default_root_dir",
            str(self.run),
            "--trainer.logger",
            "false",
            "--trainer.max_epochs",
            "1",
            "--trainer.enable_progress_bar",
            "false",
            *more,
        ]

    def embed(self, output: Path, checkpoint: Path | None = None, cells: Path | None = None) -> list[str]:
        """Return the command that embeds the cells."""
        return ["embed", str(checkpoint or self.checkpoint), str(cells or self.cells), "-o", str(output)]

    def command(self, arguments: list[str], after: float | None = None) -> tuple[int | None, str]:
        """Run a command, interrupted by Ctrl-C after some seconds; return its status and last line."""
        self.log.write_text("")
        process = self.start(arguments, self.log)
        status = None if after is None else self.wait(process, after)
        if status is None:
            if after is not None:
                os.kill(process, signal.SIGINT)
            status = self.wait(process, LIMIT)
        if status is None:
            os.kill(process, signal.SIGKILL)
            self.wait(process)
        lines = [line for line in self.log.read_text().splitlines() if line.strip()]
        if any("Traceback" in line for line in lines):
            return status, "TRACEBACK: " + lines[-1]
        return status, next(
            (line for line in lines if "error:" in line or "stopped" in line), lines[-1] if lines else ""
        )

    def try_out(
        self, fault: str, arguments: list[str], expected: tuple[int, ...] = (2,), rewrites: str = "", **kwargs: Any
    ) -> None:
        """Run a command that meets a fault, and note what happened and what was lost.

        The configuration that it ``rewrites`` may have changed; it is lost if it is not whole.
        """
        kept = [self.cells, *(path for path in sorted(self.run.rglob("*")) if path.is_file())]
        before = {path: _digest(path) for path in kept}
        files = set(self.folder.rglob("*"))
        status, message = self.command(arguments, **kwargs)
        lost = [path.name for path in kept if not path.is_file() or _digest(path) != before[path]]
        if rewrites in lost and isinstance(yaml.safe_load((self.run / rewrites).read_text()), dict):
            lost.remove(rewrites)
        new = [path.name for path in set(self.folder.rglob("*")) - files if path.name.endswith(".part")]
        if self.trace.exists():
            lost.append("ITS CODE RAN")
        if status not in expected:
            lost.append(f"EXIT STATUS {status}")
        message = message.replace(str(self.folder) + "/", "")
        self.results.append(Result(fault, message, ", ".join([*lost, *new]) or "nothing"))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def disks(bench: Bench) -> None:
    """Full disks and directories that cannot be written to."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for name, arguments in (
        ("embed", bench.embed(bench.folder / "out.h5ad")),
        ("fit, going on", bench.fit("--ckpt_path", "last", "--trainer.max_epochs", "2")),
    ):
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))  # every write beyond fails, as on a full disk
        try:
            bench.try_out(f"full disk: {name}", arguments, rewrites="config.yaml")  # of the training that continued
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    locked = bench.folder / "locked"
    locked.mkdir()
    locked.chmod(0o555)
    start = bench.start

    def powerless(*arguments: Any) -> int:  # the superuser may write everywhere, unless a process gives up that right
        class Header(ctypes.Structure):
            _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))

        libc, header, sets = ctypes.CDLL(None), Header(0x20080522, 0), (ctypes.c_uint32 * 6)()
        libc.capget(ctypes.byref(header), sets)
        effective, sets[0] = sets[0], sets[0] & ~0b10  # CAP_DAC_OVERRIDE
        libc.capset(ctypes.byref(header), sets)
        try:
            return start(*arguments)
        finally:
            sets[0] = effective
            libc.capset(ctypes.byref(header), sets)

    bench.start = powerless
    bench.try_out("read-only folder: embed", bench.embed(locked / "out.h5ad"))
    bench.try_out("read-only folder: fit", bench.fit("--trainer.default_root_dir", str(locked / "run")))
    bench.start = start


def interruptions(bench: Bench) -> None:
    """Ctrl-C at several moments of ``vaekit embed``."""
    begun = time.perf_counter()
    output = bench.folder / "whole.h5ad"
    assert bench.command(bench.embed(output))[0] == 0
    seconds = time.perf_counter() - begun
    for share in (0.2, 0.5, 0.8, 0.95):
        output = bench.folder / f"interrupted_{share}.h5ad"
        bench.try_out(
            f"Ctrl-C in embed, at {share:.0%} of its time", bench.embed(output), (130, 0), after=share * seconds
        )


def numbers(bench: Bench) -> None:
    """Numbers that are none, and runs that continue as something else."""
    run = ("--trainer.default_root_dir", str(bench.folder / "other"))
    bench.try_out(
        "NaN loss (learning rate 1e30)",
        bench.fit("--model.learning_rate", "1e30", "--trainer.gradient_clip_val", "null", *run),
    )
    for what, argument in (
        ("learning rate", ("--model.learning_rate", "0.5")),
        ("clipping", ("--trainer.gradient_clip_val", "0.5")),
        ("seed", ("--seed_everything", "5")),
    ):
        bench.try_out(
            f"going on with another {what}", bench.fit("--ckpt_path", "last", *argument, "--trainer.max_epochs", "2")
        )


def checkpoints(bench: Bench) -> None:
    """Checkpoints from somebody else."""
    whole = torch.load(bench.checkpoint, weights_only=True)
    output = bench.folder / "never.h5ad"

    def given(name: str, fault: str) -> None:
        bench.try_out(fault, bench.embed(output, checkpoint=bench.folder / name))

    (bench.folder / "bomb.ckpt").write_bytes(pickle.dumps({"hyper_parameters": Bomb(bench.trace)}))
    given("bomb.ckpt", "checkpoint: pickle bomb")
    torch.save(
        whole | {"hyper_parameters": whole["hyper_parameters"] | {"_class_path": "evil.Thing"}},
        bench.folder / "class.ckpt",
    )
    given("class.ckpt", "checkpoint: its class is of another package")
    part = whole["hyper_parameters"] | {"likelihood": {"class_path": "os.system", "init_args": {"command": "x"}}}
    torch.save(whole | {"hyper_parameters": part}, bench.folder / "part.ckpt")
    given("part.ckpt", "checkpoint: a part of it is os.system")
    (bench.folder / "short.ckpt").write_bytes(bench.checkpoint.read_bytes()[:5000])
    given("short.ckpt", "checkpoint: truncated")


def configurations(bench: Bench) -> None:
    """Configurations from somebody else."""
    config = yaml.safe_load((CONFIGS / "pbmc_mixed.yaml").read_text())
    cases = {
        "os.system as likelihood": ("likelihood", {"class_path": "os.system", "init_args": {"command": "x"}}),
        "a class of another package": ("likelihood", {"class_path": "evil.Thing"}),
        "os, by way of torch": ("likelihood", {"class_path": "torch.os.system"}),
        "'..' in the name of a latent": ("latents", {"../../out": {"class_path": "Gaussian", "init_args": {"dim": 2}}}),
    }
    for fault, (key, value) in cases.items():
        hostile = copy.deepcopy(config)
        hostile["model"]["init_args"][key] = value
        path = bench.folder / "hostile.yaml"
        path.write_text(yaml.safe_dump(hostile))
        bench.try_out(f"configuration: {fault}", [*bench.fit()[:1], "--config", str(path), *bench.fit()[3:]])
    images = ["fit", "--config", str(CONFIGS / "digits_gaussian.yaml"), "--data.name", "../../etc/passwd"]
    bench.try_out("configuration: '..' in the name of a source", images)
    (bench.folder / "laughs.yaml").write_text(
        "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    )
    bench.try_out("configuration: a billion values by aliases", ["fit", "--config", str(bench.folder / "laughs.yaml")])


def data(bench: Bench) -> None:
    """Data from somebody else."""
    output = bench.folder / "never.h5ad"
    pickled = np.void(pickle.dumps(Bomb(bench.trace)))
    for place in ("uns/object", "X"):
        path = bench.folder / "pickled.h5ad"
        path.write_bytes(bench.cells.read_bytes())
        with h5py.File(path, "r+") as file:
            if place in file:
                del file[place]
            file[place] = pickled if place != "X" else np.full((1500, 400), pickled)
        happy = (0, 2) if place != "X" else (2,)
        out = bench.folder / f"out_{place.replace('/', '_')}.h5ad"
        bench.try_out(f"h5ad: a pickled object in {place}", bench.embed(out, cells=path), happy)
    _matrices(bench)
    short = bench.folder / "short.h5ad"
    short.write_bytes(bench.cells.read_bytes()[:20_000])
    bench.try_out("h5ad: truncated", bench.embed(output, cells=short))
    bomb, header = bench.folder / "bomb.npz", io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (2**20, 8, 8)})
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", header.getvalue() + bytes(2**26))
        for i in range(100):
            again = copy.copy(archive.filelist[0])
            again.filename = f"x{i}.npy"
            archive.filelist.append(again)
    objects = bench.folder / "objects.npz"
    np.savez(objects, images=np.array([Bomb(bench.trace)] * 3, dtype=object))
    for fault, path in (("zip bomb, 6.8 GB in 65 kB", bomb), ("pickled objects", objects)):
        images = [
            "fit",
            "--config",
            str(CONFIGS / "digits_gaussian.yaml"),
            "--data.path",
            str(path),
            "--trainer.default_root_dir",
            str(bench.folder / "images"),
        ]
        bench.try_out(f"npz: {fault}", images)


def _matrices(bench: Bench) -> None:
    """Sparse matrices that point to what is not there, and a zarr store that asks to be unpickled."""
    whole = anndata.read_h5ad(bench.cells)
    for form in ("csr", "csc"):
        whole.X = getattr(sparse, f"{form}_matrix")(whole.X)
        for name, value in (("indptr", 10**8), ("indptr", 0), ("indices", 2 * 10**9), ("indices", -1)):
            path = bench.folder / "damaged.h5ad"
            whole.write_h5ad(path)
            with h5py.File(path, "r+") as file:
                file["X"][name][5] = value
            for command in (bench.embed(bench.folder / "never.h5ad", cells=path), bench.fit("--data.path", str(path))):
                bench.try_out(f"h5ad: {form} {name}[5] is {value}, {command[0]}", command)
    store = bench.folder / "pickled.zarr"
    whole.write_zarr(store)
    for file in store.rglob(".zmetadata"):
        file.unlink()
    array = {"zarr_format": 2, "shape": [1500], "chunks": [1500], "dtype": "|O", "fill_value": "", "order": "C",
             "filters": [{"id": "vlen-utf8"}, {"id": "pickle"}], "compressor": None}  # fmt: skip
    shutil.rmtree(store / "obs" / "kind")
    (store / "obs" / "kind").mkdir()
    (store / "obs" / "kind" / ".zarray").write_text(json.dumps(array))
    (store / "obs" / "kind" / "0").write_bytes(pickle.dumps(Bomb(bench.trace)))
    bench.try_out("zarr: a pickle codec", bench.embed(bench.folder / "never.h5ad", cells=store))


def run_all(folder: Path, start: Callable[..., int], wait: Callable[..., int | None]) -> list[Result]:
    """Try all faults, and return what came of them."""
    folder = folder / "inputs"
    folder.mkdir()
    bench = Bench(folder, start, wait)
    for part in (disks, interruptions, numbers, checkpoints, configurations, data):
        part(bench)
    return bench.results
