"""Damaged sparse matrices for everything that reads counts: ``damage.py DIRECTORY``, a process that a fault may end.

Print the name of each trial before it begins, and one line of JSON at the end: the message of each trial, by part.
"""

from __future__ import annotations

import gc
import json
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse

from vaekit import VaekitError
from vaekit.cli.main import main as command
from vaekit.data import GeneExpressionData

CELLS, GENES = 60, 12
HUGE = 10**12
# What is done to the arrays of a matrix with ``size`` columns (of a CSC matrix: rows), and what the message says.
DAMAGES: dict[str, tuple[str, Callable[[np.ndarray, int], Any], str]] = {
    "start too large": ("indptr", lambda x, size: at(x, 5, 10**8), "non-decreasing sequence|must not decrease"),
    "start falls": ("indptr", lambda x, size: at(x, 5, 0), "non-decreasing sequence|must not decrease"),
    "first start": ("indptr", lambda x, size: at(x, 0, 1), "should start with 0|entries, from 0 to"),
    "last start": ("indptr", lambda x, size: at(x, -1, 2**31 - 1), "[Ll]ast value of index pointer|entries, from 0 to"),
    "unsigned starts fall": ("indptr", lambda x, size: at(x, 5, 0).astype(np.uint64), "decreas"),
    "starts lack": ("indptr", lambda x, size: x[:-3], r"index pointer size|entries, from 0 to|cannot be read"),
    "starts are fractions": ("indptr", lambda x, size: x + 0.5, "float64 must be integers|cannot be read"),
    "column behind the last": ("indices", lambda x, size: at(x, 3, size), r"must be < \d+"),
    "negative column": ("indices", lambda x, size: at(x, 3, -1), "must be >= 0"),
    "far column": ("indices", lambda x, size: at(x, 3, 2_000_000_000), r"must be < \d+"),
    "columns are fractions": ("indices", lambda x, size: x + 0.5, "float64 must be integers|cannot be read"),
    "columns lack": ("indices", lambda x, size: x[:-7], "should have the same size|has shape|cannot be read"),
    "values lack": ("data", lambda x, size: x[:-7], "should have the same size|has shape|cannot be read"),
    "values are text": ("data", lambda x, size: np.full(len(x), b"x"), "are not numbers|cannot be read"),
}  # fmt: skip


def at(x: np.ndarray, place: int, value: int) -> np.ndarray:
    """Return a copy with one value changed."""
    return np.concatenate([x[:place], [value], x[place:][1:]]).astype(x.dtype)


def cells(form: str, seed: int = 0) -> anndata.AnnData:
    """Return sound cells, whose counts are in three places."""
    counts = np.random.default_rng(seed).poisson(0.7, (CELLS, GENES)).astype(np.float32)
    matrix = getattr(sparse, f"{form}_matrix")(counts)
    adata = anndata.AnnData(matrix)
    adata.layers["counts"] = matrix.copy()
    adata.raw = adata.copy()
    adata.obs["kind"] = ["a", "b"] * (CELLS // 2)
    return adata


def damaged_file(path: Path, form: str, place: str, name: str, change: Callable[[np.ndarray, int], Any]) -> Path:
    """Write cells, and change one array of one matrix."""
    copy_sound_file(form, path)
    with h5py.File(path, "r+") as file:
        values = change(file[place][name][:], GENES if form == "csr" else CELLS)
        del file[place][name]
        file[place][name] = values
    return path


def copy_sound_file(form: str, path: Path) -> None:
    """Write sound cells, for the second time as a copy of the first file."""
    sound = path.with_name(f"sound_{form}.h5ad")
    if not sound.exists():
        cells(form).write_h5ad(sound)
    gc.collect()  # a rejected file stays open until its error is collected, and h5py does not open it twice
    shutil.copyfile(sound, path)


def damaged_in_memory(form: str, place: str, name: str, change: Callable[[np.ndarray, int], Any]) -> anndata.AnnData:
    """Return cells of which one array of one matrix is changed behind scipy's back."""
    adata = cells(form)
    matrix = {"X": adata.X, "layers/counts": adata.layers["counts"], "raw/X": adata.raw.X}[place]
    setattr(matrix, name, change(getattr(matrix, name), GENES if form == "csr" else CELLS))
    return adata


def read(**source: Any) -> None:
    """Read data and every batch of them."""
    data = GeneExpressionData(batch_size=16, **source)
    for batch in data.predict_dataloader():
        assert batch.x.isfinite().all()
        assert batch.x.shape[1] == GENES


LAYERS = {"X": None, "layers/counts": "counts", "raw/X": "raw"}
found: dict[str, str] = {}


def attempt(name: str, action: Callable[[], Any]) -> None:
    """Note the message that an action ends in."""
    print(name, flush=True)  # the last line, if the process dies
    try:
        action()
        found[name] = "READ"
    except VaekitError as error:
        found[name] = str(error)


def cases(folder: Path) -> None:
    """Try each damage in each place, from files and from memory."""
    whole = folder / "whole.h5ad"
    cells("csr", seed=1).write_h5ad(whole)
    for form in ("csr", "csc"):
        for kind, (name, change, _) in DAMAGES.items():
            for place, layer in LAYERS.items():
                path = damaged_file(folder / "cells.h5ad", form, place, name, change)
                for mode in ("auto", "in_memory", "streamed"):
                    if (form, mode) != ("csc", "streamed"):
                        attempt(f"{kind}, {form} {place} {mode}", lambda: read(path=str(path), mode=mode, layer=layer))  # noqa: B023
                attempt(f"{kind}, {form} {place} two files",
                        lambda: read(path=[str(whole), str(path)], mode="in_memory", layer=layer))  # noqa: B023  # fmt: skip
                adata = damaged_in_memory(form, place, name, change)
                attempt(f"{kind}, {form} {place} in memory", lambda: read(adata=adata, layer=layer))  # noqa: B023
                if place != "raw/X":  # of which the view itself is a part, cut out when it is made
                    attempt(f"{kind}, {form} {place} view", lambda: read(adata=adata[5:50], layer=layer))  # noqa: B023


def commands(folder: Path) -> None:
    """Give the commands files with a start that is too large, or a gene that does not exist."""
    run, sound = folder / "run", folder / "sound.h5ad"
    cells("csr").write_h5ad(sound)
    config = Path(__file__).parents[2] / "configs/pbmc_gaussian.yaml"
    fit = ["fit", "--config", str(config), "--trainer.logger", "false", "--trainer.max_steps", "2"]
    assert command([*fit, "--trainer.default_root_dir", str(run), "--data.path", str(sound)]) == 0
    checkpoint = str(run / "last.ckpt")
    for form in ("csr", "csc"):
        for kind in ("start too large", "far column", "negative column"):
            cells(form).write_h5ad(sound)
            bad = str(damaged_file(folder / "bad.h5ad", form, "X", *DAMAGES[kind][:2]))
            calls = {
                "fit": [*fit, "--trainer.default_root_dir", str(folder / "other"), "--data.path", bad],
                "embed": ["embed", checkpoint, bad, "-o", str(folder / "out.h5ad")],
                "denoise": ["denoise", checkpoint, bad, "-o", str(folder / "out.h5ad")],
                "de": ["de", checkpoint, bad, "-o", str(folder / "out.csv"), "--groupby", "kind", "--group1", "a",
                       "--group2", "b"],
            }  # fmt: skip
            sound.write_bytes(Path(bad).read_bytes())  # the training's own data, damaged since
            calls["evaluate"] = ["evaluate", checkpoint]
            for name, arguments in calls.items():
                print(name, form, kind, flush=True)
                found[f"{kind}, {form} {name}"] = str(command(arguments))
            assert not list(folder.glob("out*"))


VALUES = st.sampled_from([-(2**31), -1, 0, 1, 7, GENES, CELLS, 10**3, 2**31 - 1, 2**40])
CHANGES = st.one_of(
    st.tuples(st.integers(0, 70), VALUES).map(lambda t: lambda x: np.concatenate([x[: t[0]], [t[1]], x[t[0] + 1 :]])),
    st.integers(0, 80).map(lambda count: lambda x: x[:-count]),
    st.integers(1, 9).map(lambda count: lambda x: np.concatenate([x, x[-count:]])),
    st.sampled_from([np.uint64, np.int8, np.uint8, ">i4", ">i8", np.float32, np.complex64, np.bool_]).map(
        lambda kind: lambda x: x.astype(kind)
    ),
    st.randoms(use_true_random=False).map(lambda r: lambda x: x[r.sample(range(len(x)), len(x))]),
    st.just(lambda x: x[:, None]),
    st.just(lambda x: x[0]),
    st.just(lambda x: np.roll(x, 1)),
)


def fuzz(folder: Path) -> None:
    """Try any damage: it ends in an error of vaekit's, or in batches of the right shape."""

    @settings(max_examples=100, deadline=None, derandomize=True, database=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(
        form=st.sampled_from(["csr", "csc"]),
        place=st.sampled_from(list(LAYERS)),
        changes=st.lists(st.tuples(st.sampled_from(["indptr", "indices", "data"]), CHANGES), min_size=1, max_size=2),
        shape=st.one_of(st.none(), st.tuples(VALUES, VALUES)),
        mode=st.sampled_from(["auto", "in_memory", "streamed"]),
    )
    def any_damage(form: str, place: str, changes: list, shape: Any, mode: str) -> None:
        path = folder / "fuzz.h5ad"
        copy_sound_file(form, path)
        with h5py.File(path, "r+") as file:
            for name, change in changes:
                try:
                    values = change(file[place][name][:])
                except (IndexError, ValueError, OverflowError):
                    continue  # of what the change before it left
                del file[place][name]
                file[place][name] = values
            if shape is not None:
                file[place].attrs["shape"] = shape
        attempt(f"fuzz {len(found)}", lambda: read(path=str(path), mode=mode, layer=LAYERS[place]))

    any_damage()


def claims(folder: Path) -> None:
    """Files that claim more values than there is memory."""
    for form in ("csr", "csc", "dense"):
        path = folder / "cells.h5ad"
        cells("csc" if form == "csc" else "csr").write_h5ad(path)
        with h5py.File(path, "r+") as file:
            if form == "dense":
                attributes = {"encoding-type": "array", "encoding-version": "0.2.0"}
                del file["X"]
                file.create_dataset("X", (CELLS, HUGE // CELLS), np.float32, chunks=(1, 2**20)).attrs.update(attributes)
            else:
                starts = file["X/indptr"][:].astype(np.int64)
                starts[-1] = HUGE
                for name, kind in (("indices", np.int32), ("data", np.float32)):
                    del file["X"][name]
                    file["X"].create_dataset(name, (HUGE,), kind, chunks=(2**20,))
                del file["X/indptr"]
                file["X/indptr"] = starts
        for mode in ("auto", "in_memory", "streamed"):
            attempt(f"claims, {form} {mode}", lambda: read(path=str(path), mode=mode))  # noqa: B023


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:  # the first reading imports scanpy
        copy_sound_file("csr", Path(folder, "cells.h5ad"))
        read(path=str(Path(folder, "cells.h5ad")), mode="auto")
    gc.freeze()  # all that was imported: collecting it would take half a second for each file
    messages = {}
    for part in (cases, fuzz, claims, commands):
        directory = Path(sys.argv[1], part.__name__)
        directory.mkdir()
        part(directory)
        messages[part.__name__] = found.copy()
        found.clear()
    print(json.dumps(messages))
