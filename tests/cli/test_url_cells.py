"""Commands read cells from URLs; their outputs equal those of local files and contain no credentials."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from data.cell_server import CellServer, serve

from vaekit.cli.main import main
from vaekit.data import simulate_counts

pytestmark = pytest.mark.filterwarnings("ignore")
TOKEN = "Q7kSecret"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CellServer]:
    directory = tmp_path_factory.mktemp("served")
    cells = simulate_counts(90, 40, clusters=2, seed=3)
    cells.write_h5ad(directory / "cells.h5ad")
    cells.write_zarr(directory / "cells.zarr")
    with serve(directory) as server:
        yield server


@pytest.fixture(scope="module")
def run(server: CellServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of a run that was trained on a URL with a token."""
    directory = tmp_path_factory.mktemp("runs")
    flags = ["--max_steps", "3", "--figure", "none", "--trainer.default_root_dir", str(directory), "--mode", "streamed"]
    server.token = TOKEN
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vaekit.cli.training_messages.report_run", lambda *args: "")
        assert main(["fit", f"{server.url}/cells.h5ad?token={TOKEN}", *flags]) == 0
    return directory


@pytest.fixture(autouse=True)
def without_failures(server: CellServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server.reset()
    monkeypatch.setattr("vaekit.data.cells.remote_access.FIRST_PAUSE", 0.01)
    yield
    server.reset()


def holds_token(*paths: Path) -> list[str]:
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
    assert files
    return [str(file) for file in files if TOKEN.encode() in file.read_bytes()]


def test_a_run_contains_no_token(run: Path, server: CellServer) -> None:
    assert not holds_token(run)
    assert f"{server.url}/cells.h5ad" in (run / "config.yaml").read_text()


def test_outputs_equal_those_of_a_local_file(
    run: Path, server: CellServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.token = TOKEN
    checkpoint, places = str(run / "last.ckpt"), {"local": str(server.directory / "cells.h5ad")}
    places["h5ad"] = f"{server.url}/cells.h5ad?token={TOKEN}"
    results = {}
    for name, place in places.items():
        output = tmp_path / f"{name}.h5ad"
        assert main(["embed", checkpoint, place, "-o", str(output)]) == 0
        results[name] = anndata.read_h5ad(output)
        denoised = tmp_path / f"{name}.csv"
        assert main(["denoise", checkpoint, place, "-o", str(denoised), "--genes", "gene1", "--figure", "none"]) == 0
    server.token = None
    assert main(["embed", checkpoint, f"{server.url}/cells.zarr", "-o", str(tmp_path / "zarr.h5ad")]) == 0
    results["zarr"] = anndata.read_h5ad(tmp_path / "zarr.h5ad")
    for result in results.values():
        assert np.array_equal(result.obsm["X_vaekit"], results["local"].obsm["X_vaekit"])
        assert (result.X != results["local"].X).nnz == 0
        assert result.obs.equals(results["local"].obs)
    assert (tmp_path / "h5ad.csv").read_text() == (tmp_path / "local.csv").read_text()
    assert not holds_token(tmp_path)
    assert TOKEN not in "".join(capsys.readouterr())


def test_several_places(run: Path, server: CellServer, tmp_path: Path) -> None:
    places = [f"{server.url}/cells.h5ad?n={TOKEN}", f"{server.url}/cells.zarr", str(server.directory / "cells.h5ad")]
    output = tmp_path / "all.csv"
    assert main(["embed", str(run / "last.ckpt"), *places, "-o", str(output), "--figure", "none"]) == 0
    files = pd.read_csv(output)["vaekit_file"].value_counts().to_dict()
    assert files == {f"{server.url}/cells.h5ad": 90, places[1]: 90, places[2]: 90}


def test_the_training_data_at_their_url(
    run: Path, server: CellServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.h5ad"
    command = ["embed", str(run / "last.ckpt"), "-o", str(output), "--figure", "none"]
    server.token = TOKEN  # which the checkpoint does not contain
    assert main(command) == 2
    assert "cells.h5ad cannot be read: access denied." in (message := capsys.readouterr().err)
    assert TOKEN not in message
    assert not output.exists()
    server.token = None
    assert main(command) == 0
    assert anndata.read_h5ad(output).n_obs == 90


def test_a_run_is_resumed_with_the_whole_url(run: Path, server: CellServer) -> None:
    server.token = TOKEN
    resume = ["fit", "--config", str(run / "config.yaml"), "--ckpt_path", "last", "--trainer.max_steps", "4"]
    assert main([*resume, "--figure", "none"]) == 2
    assert main([*resume, "--figure", "none", f"--data.path={server.url}/cells.h5ad?token={TOKEN}"]) == 0
    assert not holds_token(run)


def test_interrupted_downloads_leave_nothing(
    run: Path, server: CellServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["embed", str(run / "last.ckpt"), f"{server.url}/cells.h5ad", "-o", str(tmp_path / "out.h5ad")]
    for succeeding in (0, 3):
        server.failures = [None] * succeeding + [500] * 100
        assert main(command) == 2
        assert "the server answered with status 500" in capsys.readouterr().err
    assert not list(tmp_path.glob("*out*"))


def test_outputs_are_local(run: Path, server: CellServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["embed", str(run / "last.ckpt"), f"{server.url}/cells.h5ad", "-o", "s3://bucket/out.h5ad?x=1"]) == 2
    assert "output='s3://bucket/out.h5ad' is a URL. Name a file on this machine." in capsys.readouterr().err
