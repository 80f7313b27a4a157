"""Every command reads every form of file, and writes complete results."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from data.format_files import FORMATS, write_10x_h5, write_h5mu, write_table
from models.tiny import trainer

from vaekit import VAE, MixedVAE, save
from vaekit.cli.main import main
from vaekit.data import GeneExpressionData, simulate_counts
from vaekit.latents import Categorical, Gaussian
from vaekit.likelihoods import NegativeBinomial

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def cells() -> AnnData:
    simulated = simulate_counts(80, 30, clusters=2, seed=3)
    obs = pd.DataFrame({"cell_type": simulated.obs["cluster"].astype(str).to_numpy()}, [f"cell{i}" for i in range(80)])
    return AnnData(simulated.X, obs=obs, var=pd.DataFrame(index=simulated.var_names))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("inputs")


@pytest.fixture(scope="module")
def model(cells: AnnData, directory: Path) -> VAE:
    """Return a model of a file of 10x."""
    torch.manual_seed(0)
    data = GeneExpressionData(path=str(write_10x_h5(cells, directory)), batch_size=16)
    latents = {"y": Categorical(3), "z": Gaussian(2)}
    model = MixedVAE(data.features, NegativeBinomial(), data.covariates, latents=latents, hidden=(8,))
    trainer(max_epochs=2, limit_val_batches=0).fit(model, datamodule=data)
    return model.eval()


@pytest.fixture(scope="module")
def checkpoint(model: VAE, directory: Path) -> Path:
    save(model, directory / "model.ckpt")
    return directory / "model.ckpt"


def run(*words: object) -> None:
    assert main([str(word) for word in words]) == 0


@pytest.fixture(scope="module")
def expected(cells: AnnData, checkpoint: Path, directory: Path) -> AnnData:
    """Return the embedded cells of an .h5ad file."""
    cells.write_h5ad(directory / "cells.h5ad")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vaekit.plotting.embedding_figures.umap_coordinates", lambda points, seed=0: points[:, :2])
        run("embed", checkpoint, directory / "cells.h5ad", "-o", directory / "expected.h5ad")
    return anndata.read_h5ad(directory / "expected.h5ad")


@pytest.mark.parametrize("form", FORMATS)
def test_embed(form: str, cells: AnnData, checkpoint: Path, expected: AnnData, tmp_path: Path) -> None:
    path, output = FORMATS[form](cells, tmp_path), tmp_path / "out.h5ad"
    before = path.read_bytes() if path.is_file() else None
    run("embed", checkpoint, path, "-o", output)
    embedded = anndata.read_h5ad(output)
    np.testing.assert_array_equal(embedded.to_df(), expected.to_df())
    assert list(embedded.obs_names) == list(expected.obs_names)
    assert list(embedded.var_names) == list(expected.var_names)
    np.testing.assert_allclose(embedded.obsm["X_vaekit"], expected.obsm["X_vaekit"], rtol=1e-5)
    assert list(embedded.obs["vaekit_y"]) == list(expected.obs["vaekit_y"])
    assert ("gene_ids" in embedded.var) == form.startswith("10x")
    assert ("cell_type" in embedded.obs) == (form in ("loom", "h5mu"))
    assert before is None or path.read_bytes() == before
    run("embed", checkpoint, output, "-o", tmp_path / "again.csv")  # the output is an input


@pytest.mark.parametrize("form", ["10x .h5", "10x directory", "tsv.gz"])
def test_every_command(form: str, cells: AnnData, checkpoint: Path, tmp_path: Path) -> None:
    cells = cells.copy()
    path = FORMATS[form](cells, tmp_path)
    cells.write_h5ad(tmp_path / "labeled.h5ad")
    run("denoise", checkpoint, path, "-o", tmp_path / "denoised.h5ad")
    assert anndata.read_h5ad(tmp_path / "denoised.h5ad").layers["vaekit_normalized"].shape == cells.shape
    for command in ("ppc", "markers"):
        run(command, checkpoint, path, "-o", tmp_path / f"{command}.csv")
    transfer = ["--query", path, "--label_key", "cell_type", "-o", tmp_path / "labels.csv"]
    run("transfer", checkpoint, tmp_path / "labeled.h5ad", *transfer)
    assert set(pd.read_csv(tmp_path / "labels.csv")["cell_type_transferred"]) <= set(cells.obs["cell_type"])
    run("embed", checkpoint, path, "-o", tmp_path / "codes.h5ad")
    groups = ["--groupby", "vaekit_y", "-o", tmp_path / "de.csv"]
    run("de", checkpoint, tmp_path / "codes.h5ad", *groups)
    if form == "10x .h5":
        cells.X = cells.X[:, ::-1]  # the training data are not new
        run("map", checkpoint, FORMATS[form](cells, tmp_path), "--max_steps", 2, "-o", tmp_path / "mapped.ckpt")
        run("embed", tmp_path / "mapped.ckpt", path, "--batch_key", "query", "-o", tmp_path / "new.csv")


@pytest.mark.parametrize("form", ["10x directory", "csv, genes by cells"])
def test_fit(form: str, cells: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = FORMATS[form](cells, tmp_path)
    model = ["--model", "GaussianVAE", "--model.likelihood", "NegativeBinomial", "--model.hidden", "[8]"]
    trainer = ["--trainer.max_epochs", "1", "--trainer.logger", "false", "--trainer.default_root_dir", "run"]
    run("fit", "--data", "GeneExpressionData", "--data.path", path.name, *model, *trainer)
    run("test", "--ckpt_path", "run/last.ckpt", "--trainer.logger", "false")


def test_evaluate(cells: AnnData, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells.write_h5ad(tmp_path / "cells.h5ad")
    results = []
    for path in (tmp_path / "cells.h5ad", write_table(cells, tmp_path, "counts.csv"), write_h5mu(cells, tmp_path)):
        run("evaluate", checkpoint, "--data.path", path, "--num_samples", 5, "--json")
        output = capsys.readouterr().out
        assert f"{path}, all cells" in output
        results.append(json.loads(output.splitlines()[-1])["elbo"])
    assert results == pytest.approx([results[0]] * 3)


def test_training_data(checkpoint: Path, expected: AnnData, tmp_path: Path) -> None:
    """Without DATA, the 10x file that the model was trained on is read again."""
    run("embed", checkpoint, "-o", tmp_path / "out.h5ad")
    embedded = anndata.read_h5ad(tmp_path / "out.h5ad")
    np.testing.assert_allclose(embedded.obsm["X_vaekit"], expected.obsm["X_vaekit"], rtol=1e-5)
    run("evaluate", checkpoint, "--split", "val", "--num_samples", 5)


@pytest.mark.parametrize("output", ["out.h5ad", "out.csv"])
def test_files_of_different_forms(
    cells: AnnData, checkpoint: Path, expected: AnnData, output: str, tmp_path: Path
) -> None:
    first, second = write_10x_h5(cells[:30], tmp_path), write_table(cells[30:], tmp_path, "counts.csv")
    run("embed", checkpoint, first, second, "-o", tmp_path / output)
    if output.endswith(".csv"):
        table = pd.read_csv(tmp_path / output, index_col=0)
    else:
        embedded = anndata.read_h5ad(tmp_path / output)
        np.testing.assert_array_equal(embedded.to_df(), expected.to_df())
        table = embedded.obs
    assert list(table.index) == list(expected.obs_names)
    assert list(table["vaekit_file"].astype(str)) == [first.parent.name] * 30 + ["counts"] * 50


@pytest.mark.parametrize("form", ["csv", "h5mu"])
def test_the_flag_that_decides(
    form: str, cells: AnnData, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unclear = cells.copy()
    if form == "csv":
        unclear.obs_names = [f"x{i}" for i in range(80)]
        path, value = write_table(unclear, tmp_path, "counts.csv", "columns"), "columns"
        path.write_text(path.read_text().replace("gene", "g"))
        checkpoint = _renamed(checkpoint, unclear, tmp_path)
    else:
        path, value = write_h5mu(cells, tmp_path, prot=cells[:, :5].copy()), "gex"
        import h5py

        with h5py.File(path, "r+") as file:
            file["mod"].move("rna", "gex")
    assert main(["embed", str(checkpoint), str(path), "-o", str(tmp_path / "out.h5ad")]) == 2
    assert "--genes_in" in capsys.readouterr().err
    run("embed", checkpoint, path, "--genes_in", value, "-o", tmp_path / "out.h5ad")
    run("ppc", checkpoint, path, "--genes_in", value, "-o", tmp_path / "ppc.csv")
    run("evaluate", checkpoint, "--data.path", path, "--data.genes_in", value, "--num_samples", 5)
    labels = ["--query", path, "--genes_in", value, "--label_key", "cell_type", "-o", tmp_path / "labels.csv"]
    unclear.var_names = unclear.var_names.str.replace("gene", "g") if form == "csv" else unclear.var_names
    unclear.write_h5ad(tmp_path / "labeled.h5ad")
    run("transfer", checkpoint, tmp_path / "labeled.h5ad", *labels)
    assert main(["embed", str(checkpoint), str(tmp_path / "labeled.h5ad"), "--genes_in", value, "-o",
                 str(tmp_path / "other.h5ad")]) == 2  # fmt: skip
    assert f"genes_in='{value}' is for .csv, .tsv and .h5mu files" in capsys.readouterr().err


def _renamed(checkpoint: Path, cells: AnnData, directory: Path) -> Path:
    """Return a model of genes whose names do not look like genes."""
    from vaekit import load

    model = load(checkpoint)
    model.data_registry["feature_names"] = [name.replace("gene", "g") for name in model.data_registry["feature_names"]]
    save(model, directory / "renamed.ckpt")
    return directory / "renamed.ckpt"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d: d / "missing.loom", "missing.loom does not exist"),
        (lambda d: d, "is a directory, but not a zarr store or 10x directory"),
        (lambda d: _write(d / "cells.rds"), "holds an object of R. Convert it there"),
        (lambda d: _write(d / "cells.h5"), "cannot be read as 10x .h5"),
        (lambda d: _write(d / "cells.csv", b""), "cells.csv is empty"),
        (lambda d: _write(d / "cells.csv", b"gene,c1,c2\ngene0,0.5,1\ngene1,1,0\n"), "cells.csv"),
    ],
)
@pytest.mark.parametrize("command", ["embed", "ppc", "evaluate"])
def test_bad_files(
    command: str, make: Callable[[Path], Path], message: str, checkpoint: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "inputs").mkdir()
    path = make(tmp_path / "inputs")
    data = ["--data.path", str(path)] if command == "evaluate" else [str(path), "-o", str(tmp_path / "out.csv")]
    assert main([command, str(checkpoint), *data]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()


def _write(path: Path, content: bytes = b"not what its ending says") -> Path:
    path.write_bytes(content)
    return path
