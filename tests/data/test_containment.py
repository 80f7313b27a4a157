"""Files and stores whose data lie elsewhere are rejected by everything that reads cells, at any place."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
from h5py import h5d, h5p, h5s, h5t
from scipy import sparse

from vaekit import GaussianVAE, save
from vaekit.analysis import differential_expression, prepare_query
from vaekit.cli.main import main
from vaekit.data import GeneExpressionData
from vaekit.data.cells.file_formats import read_cells
from vaekit.data.cells.sources import open_adata
from vaekit.data.cells.stores import open_store
from vaekit.exceptions import DataError
from vaekit.likelihoods import Poisson

from .reading import read_query

SECRET = b"PRIVATE-CONTENT of another file of the user. " * 200
PLACES = ["X", "layers/counts", "raw/X/data", "raw/var/_index", "obs/kind", "obs/_index", "obs/group/codes", "var/size",
          "obsm/X_pca", "varm/PCs", "obsp/distances/indices", "uns/method", "uns/deep/er/values", "extra"]  # fmt: skip


def cells() -> anndata.AnnData:
    counts = np.random.default_rng(0).poisson(1.0, (40, 6)).astype(np.uint8)
    adata = anndata.AnnData(counts)
    adata.layers["counts"] = counts.copy()
    adata.raw = anndata.AnnData(sparse.csr_matrix(counts))
    adata.obs["kind"] = np.arange(40) % 2
    adata.obs["group"] = np.array(["a", "b"])[np.arange(40) % 2]
    adata.obs["group"] = adata.obs["group"].astype("category")
    adata.var["size"] = np.arange(6.0)
    adata.obsm["X_pca"] = np.ones((40, 2))
    adata.varm["PCs"] = np.ones((6, 2))
    adata.obsp["distances"] = sparse.eye(40, format="csr")
    adata.uns["method"], adata.uns["deep"] = "umap", {"er": {"values": np.arange(3)}}
    return adata


def external_storage(file: h5py.File, place: str, other: Path) -> None:
    file.create_dataset(place, (40, 6), dtype="u1", external=[(str(other), 0, 240)])


def virtual(file: h5py.File, place: str, other: Path) -> None:
    layout = h5py.VirtualLayout((40, 6), dtype="u1")
    layout[:] = h5py.VirtualSource(str(other), "X", (40, 6))
    file.create_virtual_dataset(place, layout)


def unlimited_virtual(file: h5py.File, place: str, other: Path) -> None:
    """A mapping without an end, whose sources are looked for when the data set is measured."""
    space = h5s.create_simple((4,), (h5s.UNLIMITED,))
    space.select_hyperslab((0,), (1,), (1,), (h5s.UNLIMITED,))
    made = h5p.create(h5p.DATASET_CREATE)
    made.set_virtual(space, str(other).encode(), b"X", space)
    group, _, name = place.rpartition("/")
    shape = h5s.create_simple((4,), (h5s.UNLIMITED,))
    h5d.create(file.require_group(group or "/").id, name.encode(), h5t.NATIVE_INT32, shape, made)


def external_link(file: h5py.File, place: str, other: Path) -> None:
    file[place] = h5py.ExternalLink(str(other), "/X")


def dangling_link(file: h5py.File, place: str, other: Path) -> None:
    file[place] = h5py.SoftLink("/nowhere")


def link_through_a_link(file: h5py.File, place: str, other: Path) -> None:
    file["zzz"] = h5py.ExternalLink(str(other), "/")
    file[place] = h5py.SoftLink("/zzz/X")


def hidden_reference(file: h5py.File, place: str, other: Path) -> None:
    """An attribute, as anndata 0.7 has it for categories, that refers to what no path leads to."""
    hidden = file.create_group("hidden")
    external_storage(hidden, "values", other)
    hidden["itself"] = hidden  # which keeps it in the file
    file[place] = np.zeros(3)
    file[place].attrs["categories"] = hidden["values"].ref
    del file["hidden"]


KINDS = [external_storage, virtual, unlimited_virtual, external_link, dangling_link, link_through_a_link,
         hidden_reference]  # fmt: skip


@pytest.fixture
def other(tmp_path: Path) -> Path:
    path = tmp_path / "private"
    path.write_bytes(SECRET)
    return path


def hostile(folder: Path, kind: Callable, place: str, other: Path) -> Path:
    path = folder / "evil.h5ad"
    cells().write_h5ad(path)
    with h5py.File(path, "r+") as file:
        if place in file:
            del file[place]
        kind(file, place, other)
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_every_place_of_a_file(tmp_path: Path, other: Path, kind: Callable, place: str) -> None:
    path = hostile(tmp_path, kind, place, other)
    for read in (open_store, read_cells):
        with pytest.raises(DataError, match=r"evil\.h5ad: /.*It was not read"):
            read(path)


@pytest.fixture(scope="module")
def model() -> GaussianVAE:
    data = GeneExpressionData(cells(), label_key="kind")
    made = GaussianVAE(data.features, Poisson(), data.covariates, latent_dim=2, hidden=(4,))
    made.data_registry = data.state_dict()
    return made.eval()


READERS: dict[str, Callable] = {
    "in_memory": lambda path, model: GeneExpressionData(path=path, mode="in_memory").setup(),
    "streamed": lambda path, model: GeneExpressionData(path=path, mode="streamed", layer="raw").setup(),
    "auto": lambda path, model: GeneExpressionData(path=path).setup(),
    "several": lambda path, model: open_adata([path, path]),
    "backed": lambda path, model: open_adata(anndata.read_h5ad(path, backed="r")),
    "query": lambda path, model: prepare_query(model, path, None, None),
    "streamed query": lambda path, model: prepare_query(model, path, "raw", None),
    "query_dataset": lambda path, model: read_query(path, model.data_registry),
    "de": lambda path, model: differential_expression(path, model, "kind", "0"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", [external_storage, virtual, external_link])
def test_every_reader(tmp_path: Path, other: Path, model: GaussianVAE, kind: Callable, reader: str) -> None:
    if kind is external_link:  # a link to nothing would end anndata's own reading
        cells().write_h5ad(other)
    path = hostile(tmp_path, kind, "uns/method" if reader != "backed" else "X", other)
    with pytest.raises(DataError, match=r"(another file|virtual data set).*It was not read"):
        READERS[reader](str(path), model)


@pytest.mark.parametrize("kind", [external_storage, external_link])
def test_every_command(
    tmp_path: Path, other: Path, model: GaussianVAE, kind: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    path, checkpoint, output = hostile(tmp_path, kind, "uns/method", other), tmp_path / "m.ckpt", tmp_path / "out"
    save(model, checkpoint)
    groups = ["--groupby", "kind", "--group1", "0", "--group2", "1"]
    for arguments in (
        ["embed", checkpoint, path, "-o", f"{output}.h5ad"],
        ["denoise", checkpoint, path, "-o", f"{output}.h5ad"],
        ["de", checkpoint, path, *groups, "-o", f"{output}.csv"],
        ["evaluate", checkpoint, "--data.path", path],
    ):
        assert main([str(word) for word in arguments]) == 2
        assert "/uns/method" in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))


def test_links_within_a_file_are_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "cells.h5ad"
    cells().write_h5ad(path)
    with h5py.File(path, "r+") as file:
        file["uns/same"] = h5py.SoftLink("/uns/deep")
        file["uns/deep/values"] = file["uns/deep/er/values"]
        file["uns/deep"].attrs["reference"] = file["obs"].ref
        file["gone"] = np.zeros(3)
        file["uns/deep"].attrs["to what was deleted"] = file["gone"].ref
        del file["gone"]
    link = tmp_path / "link.h5ad"
    link.symlink_to(path)
    assert read_cells(link).uns["same"]["er"]["values"].tolist() == [0, 1, 2]
    with h5py.File(path, "r+") as file:
        file["extra"] = file["/"]  # a cycle
    assert "X" in open_store(path)


@pytest.fixture(params=[2, 3])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "evil.zarr"
    with anndata.settings.override(zarr_write_format=request.param):
        cells().write_zarr(path)
    return path


def members(store: Path) -> list[Path]:
    """One file of each kind: metadata, attributes and chunks, deep and not."""
    found = [file for file in sorted(store.rglob("*")) if file.is_file()]
    chunks = [file for file in found if file.name.lstrip(".") not in ("zarray", "zgroup", "zattrs", "zarr.json")]
    return [*found[:2], *chunks[:: len(chunks) // 8]]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("how", ["link", "dangling", "pipe", "socket", "folder", "folder link"])
def test_every_member_of_a_store(store: Path, other: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_cells(store).n_obs == 40
    assert members(store)
    for file in members(store):
        place = file.parent if how == "folder link" else file
        if place == store or (how == "folder" and file.name.startswith((".z", "zarr"))):
            continue
        aside = store.parent / "aside"
        place.rename(aside)
        if how == "pipe":
            os.mkfifo(place)
        elif how == "socket":
            monkeypatch.chdir(place.parent)  # a socket's path is short
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(place.name)
        elif how == "folder":
            place.mkdir()
        else:
            place.symlink_to({"dangling": store.parent / "no", "link": other, "folder link": aside}[how])
        for read in (open_store, read_cells):
            with pytest.raises(DataError, match=r"evil\.zarr"):
                read(store)
        place.rmdir() if how == "folder" else place.unlink()
        aside.rename(place)
    assert read_cells(store).n_obs == 40


def test_consolidated_metadata_are_not_believed(store: Path) -> None:
    """They may name arrays that the files do not."""
    for name in (".zmetadata", "zarr.json"):
        if (file := store / name).exists():
            text = json.loads(file.read_text())
            found = text.get("consolidated_metadata", text)
            found["metadata"] = {key: value for key, value in found["metadata"].items() if not key.startswith("layers")}
            file.write_text(json.dumps(text))
    assert "layers/counts" in open_store(store)
    assert "counts" in read_cells(store).layers


@pytest.mark.parametrize("path", ["pipe", "/dev/zero", "/dev/null", "socket"])
def test_special_files(tmp_path: Path, path: str) -> None:
    file = Path(path) if path.startswith("/") else tmp_path / path
    if path == "pipe":
        os.mkfifo(file)
    elif path == "socket":
        socket.socket(socket.AF_UNIX).bind(str(file))
    for read in (open_store, read_cells, lambda path: GeneExpressionData(path=str(path)).setup()):
        with pytest.raises(DataError, match=r"is a (named pipe|device|socket), not a file\. Copy its content"):
            read(file)
    link = tmp_path / "a.h5ad"
    link.symlink_to(file)
    with pytest.raises(DataError, match=r"a\.h5ad is a "):
        read_cells(link)
