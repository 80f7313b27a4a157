"""Cells at the URL of a web server or of S3 are the same as in local files, and credentials stay out of everything."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse

from vaekit import GaussianVAE, save
from vaekit._core.urls import RemoteURL
from vaekit.analysis import load_training_data
from vaekit.data import GeneExpressionData, open_counts, read_cells, simulate_counts
from vaekit.data.cells import remote_access, remote_file
from vaekit.data.cells.remote_file import BLOCK_BYTES, RemoteFile
from vaekit.exceptions import CheckpointError, DataError, MissingPackageError
from vaekit.likelihoods import Poisson

from .cell_server import CellServer, serve

pytestmark = pytest.mark.filterwarnings("ignore")
CELLS, GENES = 600, 700
NAMES = ["cells.h5ad", "cells.zarr"]
TOKEN = "Q7kSecret"


@pytest.fixture(scope="module")
def cells() -> AnnData:
    return simulate_counts(CELLS, GENES, clusters=2, batches=2, seed=5)


@pytest.fixture(scope="module")
def directory(cells: AnnData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cells")
    cells.write_h5ad(path / "cells.h5ad")
    cells.write_zarr(path / "cells.zarr")
    return path


@pytest.fixture(scope="module")
def web(directory: Path) -> Iterator[CellServer]:
    with serve(directory) as server:
        yield server


@pytest.fixture
def server(web: CellServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[CellServer]:
    """Return the server without failures; pauses between attempts are short."""
    monkeypatch.setattr(remote_access, "FIRST_PAUSE", 0.01)
    web.reset()
    yield web
    web.reset()


@pytest.fixture(scope="module")
def bucket(directory: Path) -> Iterator[str]:
    """Return the URL of the directory in a local S3 server, with credentials in the environment."""
    moto = pytest.importorskip("moto.server", reason="the S3 server of moto is not installed")
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    values = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        files = s3fs.S3FileSystem(skip_instance_cache=True)
        files.mkdir("bucket")
        files.put(str(directory) + "/", "bucket/data/", recursive=True)
        yield "s3://bucket/data"
    server.stop()


def check_same(url: str, cells: AnnData) -> None:
    """Check that cells at a URL are read as those in memory, loaded and streamed."""
    loaded = read_cells(url)
    assert (loaded.X != cells.X).nnz == 0
    assert loaded.obs.equals(cells.obs)
    source = open_counts(url, mode="backed")
    assert not source.in_memory
    assert source.name == url
    index = np.array([3, 4, 5, 300, 599])
    assert (source.rows(index) != cells.X[index]).nnz == 0
    assert source.fingerprint()[0] == open_counts(cells).fingerprint()[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_web_server(name: str, server: CellServer, cells: AnnData) -> None:
    check_same(f"{server.url}/{name}", cells)


@pytest.mark.parametrize("name", NAMES)
def test_s3(name: str, bucket: str, cells: AnnData) -> None:
    check_same(f"{bucket}/{name}", cells)


@pytest.mark.parametrize("mode", ["in_memory", "streamed"])
@pytest.mark.parametrize("name", NAMES)
def test_a_data_module(name: str, mode: Any, server: CellServer, cells: AnnData) -> None:
    local = GeneExpressionData(cells, batch_key="batch", n_top_genes=40)
    data = GeneExpressionData(path=f"{server.url}/{name}", batch_key="batch", n_top_genes=40, mode=mode)
    assert data.fingerprint == local.fingerprint
    assert data.feature_names == local.feature_names
    rows = list(range(0, CELLS, 7))
    assert data.dataset.__getitems__(rows).x.equal(local.dataset.__getitems__(rows).x)
    assert data.loaded.storage.startswith("streamed" if mode == "streamed" else "in memory")


def test_files_of_different_places(server: CellServer, bucket: str, directory: Path, cells: AnnData) -> None:
    paths = [f"{server.url}/cells.zarr", str(directory / "cells.h5ad"), f"{bucket}/cells.h5ad"]
    data = GeneExpressionData(path=paths, mode="streamed")
    assert len(data.dataset) == 3 * CELLS
    assert data.config["init_args"]["path"] == paths
    assert data.dataset.__getitems__([1300]).x[0].numpy() == pytest.approx(cells.X[100].toarray()[0])


def test_a_name_without_ending(server: CellServer, directory: Path, cells: AnnData) -> None:
    for name in NAMES:
        (directory / f"plain_{name[6:]}").symlink_to(directory / name)
        assert (read_cells(f"{server.url}/plain_{name[6:]}").X != cells.X).nnz == 0
    (directory / "page").write_text("<html>Please log in.</html>")
    with pytest.raises(DataError, match=r"page is neither an \.h5ad file nor a zarr store"):
        read_cells(f"{server.url}/page")


def test_a_range_of_cells_takes_few_bytes(server: CellServer, tmp_path_factory: pytest.TempPathFactory) -> None:
    values = sparse.random(4000, 1000, 0.5, "csr", dtype=np.float32, rng=np.random.default_rng(0))
    values.data[:] = 1
    AnnData(values).write_h5ad(server.directory / "large.h5ad")
    size = (server.directory / "large.h5ad").stat().st_size
    source = open_counts(f"{server.url}/large.h5ad", mode="backed")
    server.requests.clear()
    server.num_bytes = 0
    rows = source.rows(np.arange(2000, 2040))
    assert (rows != values[2000:2040]).nnz == 0
    assert len(server.requests) <= 6
    assert server.num_bytes < 6 * BLOCK_BYTES < size / 4
    server.requests.clear()
    source.fingerprint()  # all of them: requests grow
    assert len(server.requests) < size / BLOCK_BYTES / 2


def test_a_file_object(server: CellServer, directory: Path) -> None:
    content = np.random.default_rng(0).bytes(3 * BLOCK_BYTES + 17)
    (directory / "bytes").write_bytes(content)
    file = RemoteFile(RemoteURL(f"{server.url}/bytes"))
    rng = np.random.default_rng(1)
    for _ in range(50):
        start, length = int(rng.integers(len(content) + 10)), int(rng.integers(2 * BLOCK_BYTES))
        file.seek(start)
        assert file.read(length) == content[start : start + length]
        assert file.tell() == max(start, min(start + length, len(content)))
    assert file.seek(-17, 2) == 3 * BLOCK_BYTES
    assert file.read() == content[-17:]
    (directory / "empty.h5ad").write_bytes(b"")
    with pytest.raises(DataError, match=r"empty\.h5ad cannot be read as \.h5ad"):
        read_cells(f"{server.url}/empty.h5ad")


def test_few_blocks_in_memory(server: CellServer, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_file, "CACHED_BLOCKS", 2)
    content = np.random.default_rng(0).bytes(5 * BLOCK_BYTES)
    (directory / "bytes").write_bytes(content)
    file = RemoteFile(RemoteURL(f"{server.url}/bytes"))
    assert file.read(len(content)) == content
    assert len(file._blocks) == 2
    file.seek(0)
    assert file.read(10) == content[:10]


@pytest.mark.parametrize("failures", [[503, 500], ["closed"], ["cut", 429], [0.6]])
@pytest.mark.parametrize("name", NAMES)
def test_passing_failures(
    name: str, failures: list[Any], server: CellServer, cells: AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_access, "READ_SECONDS", 0.3)
    server.failures = [None, *failures]
    assert (read_cells(f"{server.url}/{name}").X != cells.X).nnz == 0
    assert not server.failures


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (503, "the server answered with status 503 after 4 attempts. Try again later."),
        (400, "the server answered with status 400. Try again later."),
        (401, "access denied. Add the server to the file ~/.netrc."),
        (0.6, "the server did not answer after 4 attempts. Try again later."),
        ("closed", "cannot be read after 4 attempts: "),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_lasting_failures(
    name: str, failure: Any, message: str, server: CellServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_access, "READ_SECONDS", 0.2)
    server.failures = [failure] * 100
    with pytest.raises(DataError) as caught:
        read_cells(f"{server.url}/{name}")
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{server.url}/{name} cannot be read")


def test_a_server_without_range_requests(server: CellServer, cells: AnnData) -> None:
    server.ranges = False
    with pytest.raises(DataError, match=r"cells\.h5ad: the server does not support range requests\. Download the file"):
        read_cells(f"{server.url}/cells.h5ad")
    assert server.num_bytes < 2**22  # it was not downloaded block by block
    assert (read_cells(f"{server.url}/cells.zarr").X != cells.X).nnz == 0


def test_a_file_that_changes(server: CellServer, directory: Path, cells: AnnData) -> None:
    cells.write_h5ad(directory / "changing.h5ad")
    source = open_counts(f"{server.url}/changing.h5ad", mode="backed")
    (directory / "changing.h5ad").write_bytes(b"shorter")
    with pytest.raises(DataError, match=r"changing\.h5ad: the server returned .* The file has changed"):
        source.fingerprint()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("{}/no.h5ad", "{}/no.h5ad does not exist. Check the URL."),
        ("{}/no.zarr", "{}/no.zarr does not exist, or is not a zarr store. Check the URL."),
        ("{}/cells.csv", "{}/cells.csv has the ending .csv, but only .h5ad files and zarr stores are read from a URL."),
        ("{}/filtered.h5", "Download it, and pass the path of the file."),
        ("{}/run.ckpt", "is a checkpoint. Pass the cells here"),
        ("{}/cells.zarr?token=Q7kSecret", "{}/cells.zarr is a zarr store, whose URL must not contain a user name"),
        ("http://127.0.0.1:1/cells.h5ad", "Check the URL, the network connection and proxy settings."),
        ("http://127.0.0.1:1/cells.zarr", "Check the URL, the network connection and proxy settings."),
        (
            "ftp://example.org/cells.h5ad",
            "has an unknown scheme. URLs of cells begin with s3://, gs://, http://, https",
        ),
        ("file:///cells.zarr", "has an unknown scheme."),
    ],
)
def test_places_that_cannot_be_read(path: str, message: str, server: CellServer) -> None:
    path = path.format(server.url)
    for read in (read_cells, open_counts, lambda value: GeneExpressionData(path=[value]).setup()):
        with pytest.raises(DataError) as caught:
            read(path)
        assert message.format(server.url) in str(caught.value)
        assert "Q7k" not in str(caught.value)


def test_s3_without_access(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        with pytest.raises(DataError, match=f"no_{name} does not exist"):
            read_cells(f"{bucket}/no_{name}")
    with monkeypatch.context() as patch:
        patch.delenv("AWS_ACCESS_KEY_ID")
        patch.delenv("AWS_SECRET_ACCESS_KEY")
        for name in NAMES:
            with pytest.raises(
                DataError, match=rf"{name} cannot be read: access denied\. Set AWS_ACCESS_KEY_ID and AWS"
            ):
                read_cells(f"{bucket}/{name}")
        patch.setenv("AWS_PROFILE", "nobody")
        with pytest.raises(DataError, match=r"\(nobody\) could not be found\. Set AWS_ACCESS_KEY_ID"):
            read_cells(f"{bucket}/cells.h5ad")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(DataError, match=r"Check the URL, the network connection"):
        read_cells(f"{bucket}/cells.h5ad")


@pytest.mark.parametrize(("scheme", "package"), [("s3", "s3fs"), ("gs", "gcsfs"), ("https", "aiohttp")])
def test_a_missing_package(scheme: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(remote_access, "find_spec", lambda name: None if name == package else find_spec(name))
    with pytest.raises(MissingPackageError) as caught:
        read_cells(f"{scheme}://bucket/cells.h5ad")
    assert str(caught.value) == (
        f'{scheme}://bucket/cells.h5ad requires the package {package}. Install it: pip install "vaekit[cloud]"'
    )


def test_google_storage_has_a_file_system(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gcsfs", reason="gcsfs is not installed")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")  # no request leaves the machine
    files = remote_access.open_filesystem(RemoteURL("gs://bucket/cells.h5ad"))
    assert type(files).__name__ in ("GCSFileSystem", "ExtendedGcsFileSystem")
    assert files._strip_protocol("gs://bucket/cells.h5ad") == "bucket/cells.h5ad"


@pytest.mark.parametrize("is_consolidated", [True, False])
def test_a_store_with_a_codec_that_runs_code(
    is_consolidated: bool, server: CellServer, bucket: str, directory: Path, cells: AnnData
) -> None:
    import s3fs

    path = directory / "codec.zarr"
    cells[:10].write_zarr(path)  # replaces that of an earlier test
    arrays = path / "obs" / "_index" / ".zarray"
    metadata = json.loads(arrays.read_text()) | {"filters": [{"id": "pickle", "protocol": 5}]}
    arrays.write_text(json.dumps(metadata))
    consolidated = json.loads((path / ".zmetadata").read_text())
    consolidated["metadata"]["obs/_index/.zarray"] = metadata
    (path / ".zmetadata").write_text(json.dumps(consolidated))
    if not is_consolidated:
        (path / ".zmetadata").unlink()
    message = "codec 'pickle', which may run code of the store"
    with pytest.raises(DataError, match=message if is_consolidated else "codec.zarr has no consolidated metadata"):
        read_cells(f"{server.url}/codec.zarr")
    if not is_consolidated:
        files = s3fs.S3FileSystem(skip_instance_cache=True)
        files.put(f"{path}/", "bucket/data/codec.zarr/", recursive=True)
        with pytest.raises(DataError, match=message):
            read_cells(f"{bucket}/codec.zarr")


def test_a_file_with_a_link_to_another_file(server: CellServer, directory: Path, cells: AnnData) -> None:
    cells[:10].copy().write_h5ad(directory / "link.h5ad")
    with h5py.File(directory / "link.h5ad", "r+") as file:
        file["uns/other"] = h5py.ExternalLink("/etc/hostname", "/x")
    with pytest.raises(DataError, match=r"link\.h5ad: /uns/other is a link to '/x' in another file"):
        read_cells(f"{server.url}/link.h5ad")


def test_a_url_with_a_token(server: CellServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token is used, and stored nowhere; without it, the error names the remedy."""
    server.token = TOKEN
    data = GeneExpressionData(path=f"{server.url}/cells.h5ad?token={TOKEN}", n_top_genes=20, mode="streamed")
    model = GaussianVAE(data.features, Poisson(), latent_dim=2, hidden=(4,))
    model.data_registry = data.state_dict()
    save(model, tmp_path / "model.ckpt")
    assert data.adata.n_obs == CELLS
    assert data.dataset.__getitems__([0, 1]).x.shape == (2, 20)
    stored = [str(data.config), data.description, str(data.state_dict()), str(vars(data.hparams))]
    with zipfile.ZipFile(tmp_path / "model.ckpt") as archive:
        stored += [archive.read(name).decode(errors="replace") for name in archive.namelist()]
    assert not any(TOKEN in text for text in stored)
    with pytest.raises(CheckpointError) as caught:
        load_training_data(model)
    assert f"{server.url}/cells.h5ad cannot be read: access denied." in str(caught.value)
    assert "A URL with its own token must be passed as a whole" in str(caught.value)
    again = load_training_data(model, cells=f"{server.url}/cells.h5ad?token={TOKEN}")
    assert len(again.dataset) == CELLS
    server.failures = [503] * 100
    with pytest.raises(DataError) as failed:
        read_cells(f"{server.url}/cells.h5ad?token={TOKEN}")
    assert TOKEN not in str(failed.value)
    assert failed.value.__cause__ is None
    assert failed.value.__suppress_context__


@pytest.mark.exhaustive
def test_a_process_that_ends_with_open_files(server: CellServer) -> None:
    """HDF5 must not call the file object after the end of the interpreter, and sessions are closed."""
    code = (
        "import sys, vaekit; sources = [vaekit.data.open_counts(url, mode='backed') for url in sys.argv[1:]]; "
        "print([source.rows([1, 2]).shape for source in sources])"
    )
    urls = [f"{server.url}/{name}" for name in NAMES]
    started = time.monotonic()
    process = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", code, *urls], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip() == f"[(2, {GENES}), (2, {GENES})]"
    assert "nclosed" not in process.stderr
    assert time.monotonic() - started < 60
