"""Outputs of the commands: written in every form of the input, or rejected before the model runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from anndata import AnnData
from anndata.io import write_elem
from models.tiny import MODELS, adata, trainer
from scipy import sparse

from vaekit.cli.main import main
from vaekit.data import GeneExpressionData
from vaekit.likelihoods import NegativeBinomial
from vaekit.models.vae_networks import VAENetworks

WORDS = ["b", None, "a"]


def run(*arguments: str | Path | int) -> int:
    return main([str(argument) for argument in arguments])


def cells() -> AnnData:
    made = adata(cells=60, genes=15)
    made.uns = {"title": "blood"}
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of cells, two files with different columns, and models that were trained on them."""
    made = tmp_path_factory.mktemp("writing")
    cells().write_h5ad(made / "cells.h5ad")
    for name, values in (("first", np.arange(60)), ("second", np.array(["x"] * 60, dtype=object))):
        part = cells()
        part.obs["cluster"] = values
        part.write_h5ad(made / f"{name}.h5ad")
    sources = {"one": str(made / "cells.h5ad"), "two": [str(made / "first.h5ad"), str(made / "second.h5ad")]}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, path in sources.items():
            data = GeneExpressionData(path=path, batch_key="batch")  # type: ignore[arg-type]
            model = MODELS["mixed"](NegativeBinomial(), data.features, covariates=data.covariates)
            (used := trainer(max_epochs=1, limit_val_batches=0)).fit(model, datamodule=data)
            used.save_checkpoint(made / f"{name}.ckpt")
    return made


def nullable(place: h5py.Group, key: str, values: list[str | None]) -> None:
    if key in place:
        del place[key]
    with anndata.settings.override(allow_write_nullable_strings=True):
        write_elem(place, key, pd.array(values, dtype="string"))


def modern_strings(path: Path, kind: Callable[[sparse.csr_matrix], object]) -> None:
    """A file as pandas 3 and anndata 0.13 write it: names and columns are nullable strings."""
    made = cells()
    made.X = kind(made.X)
    made.write_h5ad(path)
    with h5py.File(path, "r+") as file:
        for table, names in (("obs", made.obs_names), ("var", made.var_names)):
            nullable(file[table], "_index", list(names))
        nullable(file["obs"], "word", [WORDS[number % 3] for number in range(60)])
        file["obs"].attrs["column-order"] = [*made.obs.columns, "word"]
        nullable(file["uns"], "words", WORDS)


def of_anndata_0_6(path: Path) -> None:
    """A file with compound tables, its categories in ``uns``."""
    made = cells()
    with h5py.File(path, "w") as file:
        file["X"] = made.X.toarray()
        obs = np.empty(60, dtype=[("index", "S10"), ("cell_type", "i1"), ("batch", "i1")])
        obs["index"] = made.obs_names.to_numpy().astype("S")
        for key in ("cell_type", "batch"):
            column = pd.Categorical(made.obs[key])
            obs[key] = column.codes
            file[f"uns/{key}_categories"] = column.categories.to_numpy().astype("S")
        var = np.empty(15, dtype=[("index", "S10")])
        var["index"] = made.var_names.to_numpy().astype("S")
        file["obs"], file["var"] = obs, var
        file["uns/title"] = "blood"


def of_anndata_0_7(path: Path) -> None:
    """A file with the categories of its columns in ``__categories``."""
    made = cells()
    made.write_h5ad(path)
    with h5py.File(path, "r+") as file:
        for attribute in ("encoding-type", "encoding-version"):
            del file.attrs[attribute]
        table = file["obs"]
        table.attrs["encoding-version"] = "0.1.0"
        for key in ("cell_type", "batch"):
            codes, names = table[key]["codes"][:], table[key]["categories"].asstr()[:]
            del table[key]
            table[key] = codes
            table[f"__categories/{key}"] = list(names)
            table[f"__categories/{key}"].attrs["ordered"] = False
            table[key].attrs["categories"] = table[f"__categories/{key}"].ref


def zarr_store(path: Path) -> None:
    made = cells()
    made.X = sparse.csc_matrix(made.X)
    made.obs["word"] = pd.array([WORDS[number % 3] for number in range(60)], dtype="string")
    with anndata.settings.override(allow_write_nullable_strings=True):
        made.write_zarr(path)


FORMS: dict[str, Callable[[Path], None]] = {
    "csr": lambda path: modern_strings(path, sparse.csr_matrix),
    "csc": lambda path: modern_strings(path, sparse.csc_matrix),
    "dense": lambda path: modern_strings(path, lambda matrix: matrix.toarray()),
    "0.6": of_anndata_0_6,
    "0.7": of_anndata_0_7,
    "zarr": zarr_store,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_copied(folder: Path, tmp_path: Path, form: str) -> None:
    path = tmp_path / ("cells.zarr" if form == "zarr" else "cells.h5ad")
    FORMS[form](path)
    for source, name in (("cells.h5ad", "plain"), (path, "form")):
        assert run("embed", folder / "one.ckpt", folder / source, "-o", tmp_path / f"{name}.h5ad") == 0
        output = tmp_path / f"{name}_both.h5ad"
        assert run("denoise", folder / "one.ckpt", tmp_path / f"{name}.h5ad", "-o", output) == 0
    plain, found = (anndata.read_h5ad(tmp_path / f"{name}_both.h5ad") for name in ("plain", "form"))
    np.testing.assert_allclose(found.obsm["X_vaekit"], plain.obsm["X_vaekit"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.layers["vaekit_normalized"], plain.layers["vaekit_normalized"], rtol=1e-4)
    assert list(found.obs_names) == list(plain.obs_names)
    for key in ("cell_type", "batch", "vaekit_y"):
        assert list(found.obs[key]) == list(plain.obs[key])
    assert (found.X != plain.X).sum() == 0
    assert found.uns["title"] == "blood"
    if form not in ("0.6", "0.7"):
        assert [None if pd.isna(word) else word for word in found.obs["word"]] == WORDS * 20


def with_date(path: Path) -> None:
    cells().write_zarr(path)
    (path / ".zmetadata").unlink()  # of zarr v2: what the store held before
    store = zarr.open_group(path, mode="r+", use_consolidated=False)
    store["uns"].create_array("day", data=np.array(["2020-01-01"], dtype="M8[s]"))
    store["uns/day"].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})


class TestRejectedBeforeTheModelRuns:
    @pytest.fixture(autouse=True)
    def no_model(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def ran(self: VAENetworks, batch: object) -> None:
            raise AssertionError("the model ran")

        monkeypatch.setattr(VAENetworks, "encode", ran)

    @pytest.mark.parametrize("command", ["embed", "denoise"])
    def test_columns_that_two_files_have_of_different_types(
        self, folder: Path, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run(command, folder / "two.ckpt", "-o", tmp_path / "out.h5ad") == 2
        message = capsys.readouterr().err
        assert f"{tmp_path / 'out.h5ad'} could not be written: obs['cluster'] of the cells" in message
        assert "Remove it, or convert it" in message
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("command", ["embed", "denoise"])
    def test_a_store_with_a_value_that_files_cannot_hold(
        self, folder: Path, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with_date(tmp_path / "cells.zarr")
        assert run(command, folder / "one.ckpt", tmp_path / "cells.zarr", "-o", tmp_path / "out.h5ad") == 2
        assert "could not be written" in capsys.readouterr().err
        assert not (tmp_path / "out.h5ad").exists()

    @pytest.mark.parametrize(
        ("command", "place", "key", "flags"),
        [
            ("embed", "obsm", "X_vaekit", ()),
            ("embed", "obs", "vaekit_y", ()),
            ("embed", "obsm", "vaekit_y_probabilities", ()),
            ("embed", "uns", "vaekit", ()),
            ("embed", "uns", "pca", ("--key_added", "X_pca")),
            ("embed", "obsm", "X_pca", ("--key_added", "X_pca")),
            ("denoise", "layers", "vaekit_normalized", ()),
            ("denoise", "layers", "counts", ("--key_added", "counts")),
            ("denoise", "uns", "vaekit_normalized", ()),
        ],
    )
    def test_a_key_that_is_taken(
        self,
        folder: Path,
        tmp_path: Path,
        command: str,
        place: str,
        key: str,
        flags: tuple[str, ...],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        made = cells()
        values = {"obs": "mine", "obsm": np.ones((60, 2)), "layers": made.X, "uns": {"mine": 1}}
        getattr(made, place)[key] = values[place]
        made.write_h5ad(tmp_path / "cells.h5ad")
        output = tmp_path / "out.h5ad"
        assert run(command, folder / "one.ckpt", tmp_path / "cells.h5ad", "-o", output, *flags) == 2
        message = capsys.readouterr().err
        assert f"{place}['{key}'] exists, and uns[" in message
        assert "--key_added" in message
        assert not output.exists()

    @pytest.mark.parametrize("key", ["", "a/b", "  ", ".", "X_"])
    def test_a_key_that_is_not_a_name(
        self, folder: Path, tmp_path: Path, key: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = (folder / "one.ckpt", folder / "cells.h5ad", "-o", tmp_path / "out.h5ad", "--key_added", key)
        for command in ("embed", "denoise")[: 1 if key == "X_" else 2]:  # without X_, embed's other names are empty
            assert run(command, *arguments) == 2
            assert f"key_added={key!r}" in capsys.readouterr().err


class TestOutputs:
    """Places that cannot be written to, or that hold something else, are rejected before the model is loaded."""

    @pytest.fixture(autouse=True)
    def places(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        Path("directory.csv").mkdir()
        Path("read_only.csv").write_bytes(b"precious")
        Path("read_only.csv").chmod(0o444)
        os.mkfifo("pipe.csv")
        Path("dangling.csv").symlink_to("nowhere")
        monkeypatch.setattr("vaekit.models.load", lambda path: pytest.fail("the model was loaded"))

    @pytest.mark.parametrize("command", ["embed", "denoise", "de"])
    @pytest.mark.parametrize(
        ("output", "overwrite", "message"),
        [
            ("directory.csv", False, "output='directory.csv' is a directory"),
            ("", False, "output='.' is a directory"),
            ("..", False, "output='..' is a directory"),
            ("read_only.csv", True, "read_only.csv is read-only"),
            ("pipe.csv", True, "output='pipe.csv' is not a regular file"),
            ("dangling.csv", False, "dangling.csv exists"),
            (f"{'a' * 260}.csv", False, "File name too long"),
            (f"{'a' * 250}.csv", False, "could not be written"),
            ("none/out.csv", False, "the directory none does not exist"),
            ("read_only.csv/out.csv", False, "does not exist"),
            ("out.zarr", False, "must end in "),
        ],
    )
    def test_rejected(
        self, folder: Path, capsys: pytest.CaptureFixture[str], command: str, output: str, overwrite: bool, message: str
    ) -> None:
        before = sorted(Path().iterdir())
        flags = ["--overwrite"] * overwrite + ["--groupby", "cell_type", "--group1", "B"] * (command == "de")
        flags += ["--genes", "gene1"] * (command == "denoise")
        assert run(command, folder / "one.ckpt", folder / "cells.h5ad", "-o", output, *flags) == 2
        error = capsys.readouterr().err
        assert message in error
        assert output in error or f" {Path(output).parent} " in error
        assert error.count("\n") == 1
        assert sorted(Path().iterdir()) == before
        assert Path("read_only.csv").read_bytes() == b"precious"

    def test_an_export_into_its_input(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("export", "directory.csv", "-o", "directory.csv/new") == 2
        assert "Inputs are never changed" in capsys.readouterr().err

    @pytest.mark.parametrize("command", ["sample", "traverse"])
    def test_a_checkpoint_with_the_name_of_a_figure(self, command: str, capsys: pytest.CaptureFixture[str]) -> None:
        Path("model.png").write_bytes(b"precious")
        assert run(command, "model.png", "-o", "./model.png", "--overwrite") == 2
        assert "Inputs are never changed" in capsys.readouterr().err
        assert Path("model.png").read_bytes() == b"precious"

    @pytest.mark.parametrize("seed", ["-1", "1.5", "x", "4294967296", "9" * 30])
    @pytest.mark.parametrize("command", ["denoise", "de", "evaluate", "sample", "gradients"])
    def test_seeds(self, command: str, seed: str, capsys: pytest.CaptureFixture[str]) -> None:
        required = {"denoise": ["-o", "x.h5ad"], "de": ["--groupby", "a", "--group1", "b", "-o", "x.csv"]}
        assert run(command, *["model.ckpt"] * (command != "gradients"), *required.get(command, []), "--seed", seed) == 2
        message = capsys.readouterr().err
        assert "seed" in message
        assert seed in message
        assert "must be a whole number from 0 to 4294967295" in message or "int" in message


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory. Tried"), MemoryError()])
@pytest.mark.parametrize("command", ["embed", "denoise"])
def test_memory_that_the_model_lacks(
    folder: Path,
    tmp_path: Path,
    command: str,
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(self: VAENetworks, batch: object) -> None:
        raise error

    monkeypatch.setattr(VAENetworks, "encode", fail)
    assert run(command, folder / "one.ckpt", folder / "cells.h5ad", "-o", tmp_path / "out.h5ad") == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith(f"vaekit {command}: error: more memory is needed than is available: ")
    assert "could not be written" not in message
    assert not list(tmp_path.iterdir())
