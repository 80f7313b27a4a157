"""Copies of cells that commands write: every old field, the new fields, and errors."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
import torch
from anndata import AnnData
from models.tiny import MODELS, adata, trainer
from scipy import sparse

from vaekit.analysis import embed, normalized_expression
from vaekit.cli.input_cells import resolve_cells
from vaekit.cli.main import main
from vaekit.data import GeneExpressionData
from vaekit.exceptions import format_bytes
from vaekit.likelihoods import NegativeBinomial
from vaekit.models import load, save


def run(*arguments: str | Path | int) -> int:
    return main([str(argument) for argument in arguments])


def full() -> AnnData:
    """Cells with something in every place of an AnnData."""
    cells = adata(cells=90, genes=20)
    cells.raw = cells[:, ::-1].copy()
    cells.layers["dense"] = cells.X.toarray()
    cells.layers["columns"] = sparse.csc_matrix(cells.X)
    cells.obs["quality"] = np.linspace(0, 1, 90)
    cells.obs["name"] = [f"zelle ä{i}" for i in range(90)]
    cells.obs["good"] = np.arange(90) % 2 == 0
    cells.obsm["X_pca"] = np.random.default_rng(0).normal(size=(90, 3))
    cells.obsp["near"] = sparse.identity(90, format="csr")
    cells.varm["loadings"] = np.ones((20, 2), dtype=np.float32)
    cells.uns = {"title": "blood", "numbers": {"a": 1, "b": np.arange(3)}, "names": np.array(["x", "y"], dtype=object)}
    return cells


WRITE: dict[str, Callable[[AnnData, Path], None]] = {
    "h5ad": lambda cells, path: cells.write_h5ad(path),
    "gzip.h5ad": lambda cells, path: cells.write_h5ad(path, compression="gzip"),
    "zarr": lambda cells, path: cells.write_zarr(path),
    "dense.h5ad": lambda cells, path: _dense(cells).write_h5ad(path),
}


def _dense(cells: AnnData) -> AnnData:
    cells.X = cells.X.toarray()
    return cells


def read(path: Path) -> AnnData:
    return anndata.io.read_zarr(path) if path.is_dir() else anndata.read_h5ad(path)


def same(one: AnnData, other: AnnData, but: tuple[str, ...] = ()) -> None:
    """Compare all places of two AnnData; ``but`` names fields that only the first has."""
    assert one.obs.drop(columns=[name for name in but if name in one.obs]).equals(other.obs)
    assert one.var.equals(other.var)
    assert one.raw.to_adata().var.equals(other.raw.to_adata().var)
    assert set(one.uns) - set(but) == set(other.uns)
    assert one.uns["title"] == "blood"
    assert one.uns["numbers"]["b"].tolist() == [0, 1, 2]
    assert list(one.uns["names"]) == ["x", "y"]
    pairs = [(one.X, other.X), (one.raw.X, other.raw.X)]
    for place in ("layers", "obsm", "obsp", "varm"):
        mine, theirs = getattr(one, place), getattr(other, place)
        assert set(mine) - set(but) == set(theirs)
        pairs += [(mine[key], theirs[key]) for key in theirs]
    for first, second in pairs:
        assert type(first) is type(second)
        assert first.dtype == second.dtype
        assert (first != second).sum() == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same cells in several forms, and the checkpoint of a model that was trained on some of them."""
    made = tmp_path_factory.mktemp("cells")
    for ending, write in WRITE.items():
        write(full(), made / f"cells.{ending}")
    full()[:40].copy().write_h5ad(made / "first.h5ad")
    full()[40:].copy().write_h5ad(made / "second.h5ad")
    paths = {"one": str(made / "cells.h5ad"), "two": [str(made / "first.h5ad"), str(made / "second.h5ad")]}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, path in paths.items():
            data = GeneExpressionData(path=path, batch_key="batch")  # type: ignore[arg-type]
            model = MODELS["mixed"](NegativeBinomial(), data.features, covariates=data.covariates)
            (used := trainer(max_epochs=1, limit_val_batches=0)).fit(model, datamodule=data)
            used.save_checkpoint(made / f"{name}.ckpt")
    return made


@pytest.fixture(scope="module")
def expected(folder: Path) -> AnnData:
    """The fields that the functions write into an AnnData."""
    cells = full()
    embed(cells, folder / "one.ckpt")
    normalized_expression(cells, folder / "one.ckpt", num_samples=2, transform_batch="b2", seed=3)
    return cells


@pytest.mark.parametrize("ending", WRITE)
def test_embed(folder: Path, tmp_path: Path, expected: AnnData, ending: str, capsys: pytest.CaptureFixture) -> None:
    before, out = read(folder / f"cells.{ending}"), tmp_path / "out.h5ad"
    assert run("embed", folder / "one.ckpt", folder / f"cells.{ending}", "-o", out) == 0
    shown = capsys.readouterr().out
    found = anndata.read_h5ad(out)
    keys = [key for key in expected.obsm if key.startswith(("X_vaekit", "vaekit"))]
    codes = [key for key in expected.obs if key.startswith("vaekit")]
    assert keys
    assert codes
    for key in keys:
        np.testing.assert_array_equal(found.obsm[key], expected.obsm[key])
    for key in codes:
        assert found.obs[key].dtype == "category"
        assert found.obs[key].tolist() == expected.obs[key].tolist()
        assert f'obs["{key}"] ({found.obs[key].nunique()} different codes)' in shown
    assert found.uns["vaekit"]["checkpoint"] == str(folder / "one.ckpt")
    same(found, before, (*keys, *codes, "vaekit"))
    assert {file.name for file in tmp_path.iterdir()} == {"out.h5ad", "out.png"}
    again = tmp_path / "again.h5ad"  # the fields are replaced
    assert run("embed", folder / "one.ckpt", out, "-o", again) == 0
    assert anndata.read_h5ad(again).obs.equals(found.obs)


@pytest.mark.parametrize("ending", WRITE)
def test_denoise(folder: Path, tmp_path: Path, expected: AnnData, ending: str) -> None:
    before = read(folder / f"cells.{ending}")
    out, flags = tmp_path / "out.h5ad", ("--num_samples", "2", "--transform_batch", "b2", "--seed", "3")
    assert run("denoise", folder / "one.ckpt", folder / f"cells.{ending}", *flags, "-o", out) == 0
    found = anndata.read_h5ad(out)
    assert found.layers["vaekit_normalized"].dtype == np.float32
    np.testing.assert_array_equal(found.layers["vaekit_normalized"], expected.layers["vaekit_normalized"])
    same(found, before, ("vaekit_normalized",))
    again = tmp_path / "again.h5ad"
    assert run("denoise", folder / "one.ckpt", out, "--library_size", "1", "-o", again) == 0
    np.testing.assert_allclose(anndata.read_h5ad(again).layers["vaekit_normalized"].sum(1), 1, rtol=1e-4)


def test_training_data_of_one_file_and_of_several(folder: Path, tmp_path: Path, expected: AnnData) -> None:
    for copied in (False, True):
        assert resolve_cells(load(folder / "one.ckpt"), "", None, None, copied)[:2] == (
            [str(folder / "cells.h5ad")],
            None,
        )
    paths = [str(folder / "first.h5ad"), str(folder / "second.h5ad")]
    assert resolve_cells(load(folder / "two.ckpt"), "", None, None) == (paths, None, paths)
    cells, layer, _ = resolve_cells(load(folder / "two.ckpt"), "", None, None, copied=True)
    assert isinstance(cells, AnnData)
    assert (cells.n_obs, layer) == (90, None)
    for name in ("one", "two"):
        assert run("embed", folder / f"{name}.ckpt", "-o", tmp_path / f"{name}.h5ad") == 0
        assert anndata.read_h5ad(tmp_path / f"{name}.h5ad").obsm["X_vaekit"].shape == (
            90,
            expected.obsm["X_vaekit"].shape[1],
        )


def test_evaluate_leaves_counts_in_their_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for ending in ("dense.h5ad", "h5ad"):  # the former cannot stay in its file
        if ending == "h5ad":
            monkeypatch.setattr(
                "vaekit.data.cells.sources.read_files", lambda paths, *_: pytest.fail(f"{paths} were read whole")
            )
        label = ("--data.label_key", "cell_type")
        path = folder / f"cells.{ending}"
        assert run("evaluate", folder / "one.ckpt", "--data.path", path, *label, "--num_samples", 5, "--json") == 0
        found.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    assert found[0].pop("used_codes") == found[1].pop("used_codes")
    assert found[0] == pytest.approx(found[1])
    assert found[0]["observations"] == 90
    assert found[0]["ari"] is not None


class TestInputsAreNeverWrittenOver:
    """With ``--overwrite``, which is for outputs of before: by any name, whether DATA are given or not."""

    COMMANDS = ("embed", "denoise", "de")

    @pytest.fixture
    def inputs(self, folder: Path, tmp_path: Path) -> Path:
        """Copies of the data, as two files, as one and as a zarr store, and models that were trained on these."""
        for name in ("first.h5ad", "second.h5ad", "cells.h5ad"):
            shutil.copy(folder / name, tmp_path)
        shutil.copytree(folder / "cells.zarr", tmp_path / "cells.zarr")
        sources = {"two": ["first.h5ad", "second.h5ad"], "one": "cells.h5ad", "zarr": "cells.zarr"}
        for name, source in sources.items():
            model = load(folder / ("two.ckpt" if name == "two" else "one.ckpt"))
            assert model.data_registry is not None
            within = str(tmp_path / source) if isinstance(source, str) else [str(tmp_path / part) for part in source]
            model.data_registry["config"]["init_args"]["path"] = within
            save(model, tmp_path / f"{name}.ckpt")
        (tmp_path / "link.h5ad").symlink_to("first.h5ad")
        os.link(tmp_path / "cells.h5ad", tmp_path / "hard.h5ad")
        return tmp_path

    @pytest.mark.parametrize("command", COMMANDS)
    @pytest.mark.parametrize(
        ("model", "data", "output"),
        [
            ("two", None, "first.h5ad"),
            ("two", None, "second.h5ad"),
            ("two", "cells.h5ad", "first.h5ad"),
            ("two", None, "link.h5ad"),
            ("two", None, "no/../first.h5ad"),
            ("one", None, "cells.h5ad"),
            ("one", None, "hard.h5ad"),
            ("one", "cells.h5ad", "cells.h5ad"),
            ("zarr", None, "cells.zarr"),
            ("zarr", None, "cells.zarr/zarr.json"),
            ("zarr", None, "cells.zarr/new.h5ad"),
            ("one", "cells.zarr", "cells.zarr/zarr.json"),
            ("two", None, "two.ckpt"),
            ("one", "cells.h5ad", "one.ckpt"),
        ],
    )
    def test_refused(
        self,
        inputs: Path,
        capsys: pytest.CaptureFixture[str],
        command: str,
        model: str,
        data: str | None,
        output: str,
    ) -> None:
        (inputs / "no").mkdir()
        before = {path: path.read_bytes() for path in inputs.rglob("*") if path.is_file()}
        groups = ("--groupby", "cell_type", "--group1", "B") if command == "de" else ()
        given = () if data is None else (inputs / data,)
        assert run(command, inputs / f"{model}.ckpt", *given, *groups, "-o", inputs / output, "--overwrite") == 2
        message = capsys.readouterr().err
        assert "Inputs are never changed" in message or "must end in" in message
        assert {path: path.read_bytes() for path in inputs.rglob("*") if path.is_file()} == before

    def test_the_plot_beside_a_table_neither(self, inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
        shutil.move(inputs / "one.ckpt", inputs / "table.png")
        groups = ("--groupby", "cell_type", "--group1", "B")
        assert run("de", inputs / "table.png", *groups, "-o", inputs / "table.csv", "--overwrite") == 2
        assert "table.png' is the input" in capsys.readouterr().err
        load(inputs / "table.png")

    def test_an_earlier_output_is_replaced(self, inputs: Path) -> None:
        out = inputs / "out.h5ad"
        shutil.copy(inputs / "cells.h5ad", out)
        assert run("embed", inputs / "two.ckpt", "-o", out, "--overwrite") == 0
        assert "X_vaekit" in anndata.read_h5ad(out).obsm


class TestErrors:
    def test_a_disk_that_is_too_small(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        usage = __import__("shutil").disk_usage(tmp_path)
        size = (folder / "cells.h5ad").stat().st_size
        monkeypatch.setattr("vaekit.cli.cells.shutil.disk_usage", lambda _: usage._replace(free=size + 100))
        out = tmp_path / "out.h5ad"
        assert run("denoise", folder / "one.ckpt", folder / "cells.h5ad", "-o", out) == 2
        message = capsys.readouterr().err
        assert (
            f"{out} needs {format_bytes(size + 4 * 90 * 20)}, but its disk has {format_bytes(size + 100)} free"
            in message
        )
        assert "GB" not in message
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(("command", "place"), [("embed", "obsm"), ("embed", "uns"), ("denoise", "layers")])
    def test_links_are_not_followed(
        self, folder: Path, tmp_path: Path, command: str, place: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A file whose obsm lies in another file: that would be changed."""
        victim, hostile, out = tmp_path / "victim.h5ad", tmp_path / "hostile.h5ad", tmp_path / "out.h5ad"
        full().write_h5ad(victim)
        full().write_h5ad(hostile)
        with h5py.File(hostile, "r+") as file:
            del file[place]
            file[place] = h5py.ExternalLink(str(victim), f"/{place}")
        before = victim.read_bytes()
        assert run(command, folder / "one.ckpt", hostile, "-o", out) == 2
        assert f"/{place} is a link to" in capsys.readouterr().err
        assert victim.read_bytes() == before
        assert not out.exists()

    @pytest.mark.parametrize("command", ["embed", "denoise", "de"])
    def test_messages_name_the_file(
        self, folder: Path, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        cells = full()
        cells.obs = cells.obs.drop(columns="batch")
        cells.write_h5ad(tmp_path / "nameless.h5ad")
        groups = ("--groupby", "cell_type", "--group1", "B") if command == "de" else ()
        out = tmp_path / ("out.csv" if command == "de" else "out.h5ad")
        assert run(command, folder / "one.ckpt", tmp_path / "nameless.h5ad", *groups, "-o", out) == 2
        message = capsys.readouterr().err
        assert f"batch_key='batch' not found in .obs of {tmp_path}/nameless.h5ad" in message
        assert "in memory" not in message
