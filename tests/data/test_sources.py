import subprocess
import sys
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
from anndata import AnnData

from vaekit.data import GeneExpressionData
from vaekit.data.cells.file_formats import read_cells
from vaekit.data.cells.sources import open_adata, pbmc68k
from vaekit.data.cells.stores import open_store, read_table
from vaekit.exceptions import DataError


def test_recovered_counts_are_whole_and_give_raw_back():
    adata = pbmc68k()
    counts, raw = adata.layers["counts"].sorted_indices(), adata.raw.X.tocsr().sorted_indices()
    assert (counts.data == np.rint(counts.data)).all()
    assert counts.data.min() == 1
    totals = adata.obs["n_counts"].to_numpy()
    assert (np.asarray(counts.sum(1)).ravel() <= totals).all()
    unit = np.repeat(1e4 / totals, np.diff(counts.indptr))
    np.testing.assert_allclose(np.log1p(counts.data * unit), raw.data, atol=0.00051)  # stored to three decimals
    smallest = np.array([raw.data[a:b].min() for a, b in zip(raw.indptr, raw.indptr[1:], strict=False)])
    np.testing.assert_allclose(np.expm1(smallest), 1e4 / totals, rtol=0.002)  # one count is the unit of each row


def test_reads_a_file(tmp_path, make_adata):
    make_adata().write_h5ad(tmp_path / "cells.h5ad")
    adata, name = open_adata(tmp_path / "cells.h5ad")
    assert adata.shape == (60, 20)
    assert name.endswith("cells.h5ad")


def test_backed_adata_is_read_into_memory(tmp_path, make_adata):
    make_adata().write_h5ad(tmp_path / "cells.h5ad")
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    adata, name = open_adata(backed)
    assert not adata.isbacked
    assert backed.isbacked
    assert "cells.h5ad" in name


def test_missing_file_names_the_nearest(tmp_path, make_adata):
    make_adata().write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(DataError, match=r"cell.h5ad does not exist.*Did you mean 'cells.h5ad'"):
        read_cells(tmp_path / "cell.h5ad")
    with pytest.raises(DataError, match=r"directory .*nowhere' does not exist either"):
        read_cells(tmp_path / "nowhere" / "cell.h5ad")


def test_directory(tmp_path):
    with pytest.raises(DataError, match=r"is a directory, but not a zarr store .* Files of cells are \.h5ad"):
        read_cells(tmp_path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["truncated", "text", "empty", "foreign"])
def test_file_that_is_no_h5ad(tmp_path, make_adata, kind):
    file = tmp_path / "bad.h5ad"
    if kind == "truncated":
        make_adata().write_h5ad(file)
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif kind == "foreign":
        with h5py.File(file, "w") as target:
            target["matrix/data"] = np.arange(4)
    else:
        file.write_text("hello" if kind == "text" else "")
    before = file.read_bytes()
    with pytest.raises(DataError, match=r"bad.h5ad cannot be read as .h5ad; it is truncated or was not written by"):
        read_cells(file)
    assert file.read_bytes() == before


def test_something_else_altogether():
    with pytest.raises(DataError, match="adata has type ndarray, but must be an AnnData"):
        open_adata(np.ones((2, 2)))


def test_a_file_that_is_being_written(tmp_path: Path) -> None:
    path = tmp_path / "cells.h5ad"
    AnnData(np.ones((4, 3), dtype=np.float32)).write_h5ad(path)
    hold = "import h5py, sys; file = h5py.File(sys.argv[1], 'r+'); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", hold, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(DataError, match=r"cells\.h5ad is open for writing in another program"):
            read_cells(path)
        process.kill()
    with h5py.File(path, "r"):
        assert read_cells(path).n_obs == 4  # another reader is no fault


@pytest.mark.parametrize("place", ["obs/wide", "uns/wide"])
def test_a_small_file_that_claims_terabytes(tmp_path: Path, place: str) -> None:
    path = tmp_path / "cells.h5ad"
    AnnData(np.ones((4, 3), dtype=np.float32)).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        file.create_dataset(place, (10**12,), dtype="f8", chunks=(1000,))
        file["obs"].attrs["column-order"] = ["wide"] if place.startswith("obs") else []
    with pytest.raises(DataError, match=r"claims 8\.0 TB"):
        read_cells(path)
    if place.startswith("obs"):
        with pytest.raises(DataError, match=r"cells\.h5ad, obs claims 8\.0 TB"):
            read_table(open_store(path), "obs", str(path))


@pytest.mark.parametrize("path", [5, {"a": 1}, ["cells.h5ad", 5], b"cells.h5ad", 1.5])
def test_paths_are_text(path: object) -> None:
    with pytest.raises(DataError, match=r"path=.* must be a file path or a list of file paths"):
        GeneExpressionData(path=path)  # type: ignore[arg-type]


@pytest.mark.parametrize("target", ["cells.h5ad", "removed.h5ad"])
def test_a_link_to_no_file(tmp_path, target):
    (tmp_path / "cells.h5ad").symlink_to(target)
    with pytest.raises(DataError, match=rf"cells.h5ad is a link to '{target}', which leads to no file"):
        open_adata(tmp_path / "cells.h5ad")
