"""Zarr stores whose metadata ask for code to be run: refused before anything is decoded."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import anndata
import numpy as np
import pytest
from scipy import sparse

from vaekit.data import GeneExpressionData
from vaekit.data.cells.file_formats import read_cells
from vaekit.data.cells.stores import open_store
from vaekit.data.containment import check_zarr
from vaekit.exceptions import DataError


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.fixture(params=[2, 3])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A store as anndata writes it, of each format, with strings, categories and sparse counts."""
    counts = sparse.csr_matrix(np.random.default_rng(0).poisson(1.0, (40, 6)).astype(np.float32))
    adata = anndata.AnnData(counts)
    adata.obs["kind"] = ["a", "b"] * 20
    with anndata.settings.override(zarr_write_format=request.param):
        adata.write_zarr(tmp_path / "cells.zarr")
    return tmp_path / "cells.zarr"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", ["in_memory", "streamed"])
def test_what_anndata_writes_is_read(store: Path, mode: str) -> None:
    check_zarr(store)
    assert GeneExpressionData(path=str(store), mode=mode).num_cells == 40  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("filters", "compressor"),
    [
        ([{"id": "vlen-utf8"}, {"id": "pickle", "protocol": 5}], None),
        ([{"id": "pickle", "protocol": 5}], None),
        (None, {"id": "pickle", "protocol": 5}),
        (None, {"id": "somebody_elses"}),
    ],
)
@pytest.mark.parametrize("file", [".zarray", ".zmetadata"])
def test_a_pickle_in_a_store(tmp_path: Path, filters: list | None, compressor: dict | None, file: str) -> None:
    """Written by hand, as numcodecs may not know the codec."""
    trace, store = tmp_path / "it_ran", tmp_path / "cells.zarr"
    array = {"zarr_format": 2, "shape": [1], "chunks": [1], "dtype": "|O", "fill_value": "", "order": "C",
             "filters": filters, "compressor": compressor}  # fmt: skip
    (store / "obs" / "_index").mkdir(parents=True)
    for folder in (store, store / "obs"):
        (folder / ".zgroup").write_text('{"zarr_format": 2}')
    if file == ".zarray":
        (store / "obs" / "_index" / ".zarray").write_text(json.dumps(array))
    else:
        metadata = {"metadata": {"obs/_index/.zarray": array}, "zarr_consolidated_format": 1}
        (store / ".zmetadata").write_text(json.dumps(metadata))
    (store / "obs" / "_index" / "0").write_bytes(pickle.dumps(Bomb(trace)))
    name = "somebody_elses" if compressor and compressor["id"] != "pickle" else "pickle"
    for read in (open_store, read_cells, lambda path: GeneExpressionData(path=str(path)).num_cells):
        with pytest.raises(DataError, match=rf"{file} names the codec '{name}', which may run code"):
            read(store)
    assert not trace.exists()


@pytest.mark.parametrize(
    "codecs",
    [
        [{"name": "numcodecs.pickle", "configuration": {}}],
        ["pickle"],
        [{"name": "sharding_indexed", "configuration": {"codecs": [{"name": "bytes"}, {"name": "pickle"}]}}],
        [{"name": "sharding_indexed", "configuration": {"codecs": [], "index_codecs": [{"name": "pickle"}]}}],
    ],
)
@pytest.mark.parametrize("consolidated", [False, True])
def test_a_pickle_in_the_third_format(tmp_path: Path, codecs: list, consolidated: bool) -> None:
    array = {"zarr_format": 3, "node_type": "array", "codecs": codecs, "attributes": {"codecs": ["anything"]}}
    group = {"zarr_format": 3, "node_type": "group", "consolidated_metadata": {"metadata": {"X": array}}}
    (tmp_path / "zarr.json").write_text(json.dumps(group if consolidated else array))
    with pytest.raises(DataError, match=r"zarr\.json names the codec '(numcodecs\.)?pickle'"):
        open_store(tmp_path)


def test_an_attribute_is_no_codec(tmp_path: Path) -> None:
    (tmp_path / "zarr.json").write_text('{"node_type": "group", "attributes": {"codecs": ["pickle"], "name": "x"}}')
    check_zarr(tmp_path)


@pytest.mark.parametrize("text", ["{", "\xff", "[" * 100_000])
def test_metadata_that_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "zarr.json").write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=r"zarr\.json cannot be read as zarr metadata"):
        check_zarr(tmp_path)


def test_links(tmp_path: Path) -> None:
    """One to a folder elsewhere is refused: what is there was not looked at."""
    inside, outside = tmp_path / "cells.zarr" / "X", tmp_path / "elsewhere"
    inside.mkdir(parents=True)
    outside.mkdir()
    (tmp_path / "cells.zarr" / "same").symlink_to(inside)
    check_zarr(tmp_path / "cells.zarr")
    (tmp_path / "cells.zarr" / "layers").symlink_to(outside)
    with pytest.raises(DataError, match=r"layers is a link that leads out of the directory, to .*elsewhere"):
        check_zarr(tmp_path / "cells.zarr")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", ["auto", "in_memory", "streamed"])
def test_a_type_that_is_none(store: Path, mode: str) -> None:
    """Of the values, in the metadata of their array."""
    for file in (store / "X" / "data").glob("*"):
        if file.name in (".zarray", "zarr.json"):
            array = json.loads(file.read_bytes())
            array |= {"dtype": "<q9"} if "dtype" in array else {"data_type": "float9"}
            file.write_text(json.dumps(array))
    for file in (store / ".zmetadata", store / "zarr.json"):  # the consolidated copy would be used
        if file.name == ".zmetadata":
            file.unlink(missing_ok=True)
        elif file.exists():
            group = json.loads(file.read_bytes())
            group.pop("consolidated_metadata", None)
            file.write_text(json.dumps(group))
    with pytest.raises(DataError, match=r"cells\.zarr cannot be read as a zarr store"):
        _ = GeneExpressionData(path=str(store), mode=mode).num_cells  # type: ignore[arg-type]
