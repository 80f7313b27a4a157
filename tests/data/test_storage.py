"""However counts are stored, training and queries read the same cells."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from anndata import AnnData
from scipy import sparse

from vaekit import GaussianVAE
from vaekit.analysis import prepare_query
from vaekit.data import GeneExpressionData
from vaekit.data.cells.in_memory_counts import load_matrix
from vaekit.data.cells.sources import open_counts
from vaekit.exceptions import DataError
from vaekit.likelihoods import Poisson
from vaekit.models import VAE

from .reading import read_counts

CELLS, GENES = 48, 9
COUNTS = np.random.default_rng(0).poisson(0.8, (CELLS, GENES)).astype(np.float32)
COUNTS[:, 0] += 1


def cells(matrix: Any = None) -> AnnData:
    obs = pd.DataFrame({"donor": np.array(["b", "a"])[np.arange(CELLS) % 2]}, index=[f"c{n}" for n in range(CELLS)])
    made = AnnData(sparse.csr_matrix(COUNTS), obs, pd.DataFrame(index=[f"g{number}" for number in range(GENES)]))
    if matrix is not None:
        made.X = matrix
    return made


def unsorted(form: Callable, zeros: bool = False, twice: bool = False) -> Any:
    """Return a matrix whose rows (columns) are backwards, with stored zeros, or with values in two parts."""
    dense = COUNTS if form is sparse.csr_matrix else COUNTS.T
    data, indices, starts = [], [], [0]
    for row in dense:
        columns = np.arange(len(row))[::-1] if zeros else np.flatnonzero(row)[::-1]
        for column in columns:
            parts = [1, row[column] - 1] if twice and row[column] > 1 else [row[column]]
            data += parts
            indices += [column] * len(parts)
        starts.append(len(data))
    return form((np.array(data, np.float32), np.array(indices), np.array(starts)), COUNTS.shape)


MATRICES: dict[str, Callable[[], Any]] = {
    **{
        f"{form.__name__} {kind}": lambda form=form, kind=kind: form(COUNTS.astype(kind))
        for form in (sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array, sparse.csc_array, np.asarray)
        for kind in ("float32", "float64", "int32", "int64", "uint8")
    },
    "float16": lambda: COUNTS.astype(np.float16),
    "big-endian": lambda: COUNTS.astype(">f8"),
    "columns first": lambda: np.asfortranarray(COUNTS),
    "unsorted": lambda: unsorted(sparse.csr_matrix),
    "unsorted CSC": lambda: unsorted(sparse.csc_matrix),
    "explicit zeros": lambda: unsorted(sparse.csr_matrix, zeros=True),
    "explicit zeros CSC": lambda: unsorted(sparse.csc_matrix, zeros=True),
    "twice": lambda: unsorted(sparse.csr_matrix, twice=True),
    "twice CSC": lambda: unsorted(sparse.csc_matrix, twice=True),
}
WRITERS: dict[str, Callable[[AnnData, Path], Any]] = {
    "h5ad": lambda adata, folder: adata.write_h5ad(folder / "a.h5ad"),
    "gzip": lambda adata, folder: adata.write_h5ad(folder / "a.h5ad", compression="gzip"),
    "lzf": lambda adata, folder: adata.write_h5ad(folder / "a.h5ad", compression="lzf"),
    "zarr": lambda adata, folder: adata.write_zarr(folder / "a.zarr"),
}


def read(dataset: Any) -> dict[str, np.ndarray]:
    batch = dataset.__getitems__(list(range(len(dataset))))
    return {name: getattr(batch, name).numpy() for name in ("x", "size_factor", "covariates")}


def same(one: Any, other: Any, rows: slice = slice(None)) -> None:
    for name, values in read(one).items():
        np.testing.assert_array_equal(values, read(other)[name][rows], err_msg=name)


@pytest.fixture(scope="module")
def right() -> GeneExpressionData:
    return GeneExpressionData(cells(), batch_key="donor")


@pytest.fixture(scope="module")
def model(right: GeneExpressionData) -> VAE:
    made = GaussianVAE(right.features, Poisson(), right.covariates, latent_dim=2, hidden=(4,))
    made.data_registry = right.state_dict()
    return made.eval()


@pytest.mark.parametrize("place", ["X", "layer", "raw"])
@pytest.mark.parametrize("matrix", MATRICES)
def test_in_memory(right: GeneExpressionData, model: VAE, matrix: str, place: str) -> None:
    adata, layer = cells(), None if place == "X" else place
    if place == "X":
        adata.X = MATRICES[matrix]()
    elif place == "layer":
        adata.layers["layer"] = MATRICES[matrix]()
        adata.X = adata.X.log1p()
    else:
        adata.raw = cells(MATRICES[matrix]())
        adata = adata[:, 2:].copy()
        adata.X = adata.X.log1p()
    data = GeneExpressionData(adata, layer=layer, batch_key="donor")
    assert data.fingerprint == right.fingerprint
    same(data.dataset, right.dataset)
    same(prepare_query(model, adata, layer or "X", "donor").dataset, right.dataset)


VIEWS: dict[str, Callable[[AnnData], AnnData]] = {
    "rows": lambda adata: adata[5:30],
    "all": lambda adata: adata[:, :],
    "mask": lambda adata: adata[np.arange(CELLS) % 3 == 0],
    "view of a view": lambda adata: adata[5:][:25],
    "written to": lambda adata: written_to(adata[5:30]),
}


def written_to(view: AnnData) -> AnnData:
    """Return what becomes of a view that is written to: a copy."""
    view.obs["more"] = 1
    view.layers["more"] = view.X.copy()
    return view


ROWS = {"rows": slice(5, 30), "all": slice(None), "mask": slice(0, None, 3), "view of a view": slice(5, 30),
        "written to": slice(5, 30)}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "form", ["memory CSR", "memory CSC", "memory dense", "backed CSR", "backed CSC", "backed dense"]
)
@pytest.mark.parametrize("view", VIEWS)
def test_views(right: GeneExpressionData, model: VAE, tmp_path: Path, view: str, form: str) -> None:
    how, kind = form.split()
    adata = cells({"CSR": sparse.csr_matrix, "CSC": sparse.csc_matrix, "dense": np.asarray}[kind](COUNTS))
    if how == "backed":
        if view in ("view of a view", "written to"):
            return  # anndata has no such views
        adata.write_h5ad(tmp_path / "a.h5ad")
        adata = anndata.read_h5ad(tmp_path / "a.h5ad", backed="r")
    seen = VIEWS[view](adata)
    same(prepare_query(model, seen, None, None).dataset, right.dataset, ROWS[view])
    data = GeneExpressionData(seen, batch_key="donor")
    np.testing.assert_array_equal(read(data.dataset)["x"], COUNTS[ROWS[view]])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
@pytest.mark.parametrize("kind", ["float32", "int64", "uint8", "float16"])
@pytest.mark.parametrize("writer", WRITERS)
def test_files(right: GeneExpressionData, model: VAE, tmp_path: Path, writer: str, kind: str, form: Callable) -> None:
    if kind == "float16" and form is not np.asarray:
        kind = "bool"
    counts = COUNTS.astype(kind)
    WRITERS[writer](cells(form(counts)), tmp_path)
    path = next(tmp_path.glob("a.*"))
    expected = right if kind != "bool" else GeneExpressionData(cells(form(counts)), batch_key="donor")
    for mode in ("in_memory", "streamed") if form is sparse.csr_matrix else ("auto",):
        same(GeneExpressionData(path=str(path), batch_key="donor", mode=mode).dataset, expected.dataset)  # type: ignore[arg-type]
    same(prepare_query(model, path, None, None).dataset, expected.dataset)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("matrix", ["unsorted", "explicit zeros", "twice", "unsorted CSC", "twice CSC"])
def test_irregular_files(right: GeneExpressionData, model: VAE, tmp_path: Path, matrix: str) -> None:
    cells(MATRICES[matrix]()).write_h5ad(tmp_path / "a.h5ad")
    for mode in ("in_memory",) if "CSC" in matrix else ("in_memory", "streamed"):
        data = GeneExpressionData(path=str(tmp_path / "a.h5ad"), batch_key="donor", mode=mode)  # type: ignore[arg-type]
        assert data.fingerprint == right.fingerprint
        same(data.dataset, right.dataset)
    same(prepare_query(model, tmp_path / "a.h5ad", None, None).dataset, right.dataset)


@pytest.mark.parametrize("forms", [(sparse.csr_matrix, sparse.csr_matrix), (sparse.csc_matrix, np.asarray)])
def test_two_files(right: GeneExpressionData, tmp_path: Path, forms: tuple[Callable, Callable]) -> None:
    paths = [str(tmp_path / "a.h5ad"), str(tmp_path / "b.h5ad")]
    for path, rows, form in zip(paths, (slice(20), slice(20, None)), forms, strict=True):
        part = cells()[rows].copy()
        part.X = form(COUNTS[rows])
        part[:, :: 1 if rows.stop else -1].copy().write_h5ad(path)
    for mode in ("in_memory", "streamed") if forms[0] is forms[1] else ("auto",):
        same(GeneExpressionData(path=paths, batch_key="donor", mode=mode).dataset, right.dataset)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix])
def test_small_integers_that_are_given_twice_do_not_overflow(tmp_path: Path, form: Callable) -> None:
    matrix = form((np.array([200, 100, 7], np.uint8), np.array([0, 0, 0]), np.array([0, 2, 3])), (2, 2))
    if form is sparse.csc_matrix:
        matrix = form((np.array([200, 100, 7], np.uint8), np.array([0, 0, 1]), np.array([0, 3, 3])), (2, 2))
    adata = AnnData(matrix)
    assert read_counts(adata, None, "file")[0].toarray().tolist() == [[300, 0], [7, 0]]
    adata.write_h5ad(tmp_path / "a.h5ad")
    if form is sparse.csr_matrix:
        source = open_counts(tmp_path / "a.h5ad", mode="streamed")
        assert source.rows(np.arange(2)).toarray().tolist() == [[300, 0], [7, 0]]


class Lazy:
    """A matrix that is computed when it is asked for, as a dask array is; anndata takes no other class than dask's."""

    def __init__(self, matrix: Any) -> None:
        self.matrix = matrix

    def compute(self) -> Any:
        if self.matrix is None:
            raise RuntimeError("a worker was lost")
        return self.matrix


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix, np.asarray])
def test_lazy_matrices(form: Callable) -> None:
    matrix = form(COUNTS)
    assert load_matrix(Lazy(matrix), "file") is matrix
    with pytest.raises(DataError, match=r"file is a Lazy that cannot be read .*RuntimeError: a worker was lost"):
        load_matrix(Lazy(None), "file")


@pytest.mark.filterwarnings("ignore")
def test_matrices_of_open_files(tmp_path: Path) -> None:
    adata = cells()
    adata.layers["dense"] = COUNTS
    adata.write_h5ad(tmp_path / "a.h5ad")
    adata.write_zarr(tmp_path / "a.zarr")
    for file in (h5py.File(tmp_path / "a.h5ad"), zarr.open_group(tmp_path / "a.zarr", mode="r")):
        adata.layers["open"] = file["layers/dense"]
        np.testing.assert_array_equal(read_counts(adata, "open", "file")[0].toarray(), COUNTS)
        adata.layers["open"] = anndata.io.sparse_dataset(file["X"])
        np.testing.assert_array_equal(read_counts(adata, "open", "file")[0].toarray(), COUNTS)


def test_masked_values_are_rejected() -> None:
    adata = cells()
    adata.layers["masked"] = np.ma.masked_array(COUNTS, COUNTS == 2)
    with pytest.raises(DataError, match=rf"\.layers\['masked'\] has {int((COUNTS == 2).sum())} masked values"):
        read_counts(adata, "masked", "file")
    adata.layers["masked"] = np.ma.masked_array(COUNTS, False)
    np.testing.assert_array_equal(read_counts(adata, "masked", "file")[0].toarray(), COUNTS)


@pytest.mark.parametrize("where", ["memory", "in_memory", "streamed"])
def test_cells_without_counts(model: VAE, tmp_path: Path, where: str) -> None:
    adata = cells(sparse.csr_matrix(COUNTS.shape, dtype=np.float32))
    adata.write_h5ad(tmp_path / "a.h5ad")
    source = {"adata": adata} if where == "memory" else {"path": str(tmp_path / "a.h5ad"), "mode": where}
    message = r"none of the 48 cells has counts in the modeled genes.*min_counts=1"
    with pytest.raises(DataError, match=message):
        GeneExpressionData(**source).setup()  # type: ignore[arg-type]
    with pytest.raises(DataError, match=message):
        prepare_query(model, adata if where == "memory" else tmp_path / "a.h5ad", None, "donor")


@pytest.mark.parametrize("mode", ["in_memory", "streamed"])
def test_files_whose_genes_differ_in_version_say_so(tmp_path: Path, mode: Any) -> None:
    paths = [str(tmp_path / "a.h5ad"), str(tmp_path / "b.h5ad")]
    for version, path in enumerate(paths):
        adata = cells()
        adata.var_names = [f"ENSG{number}.{version}" for number in range(GENES)]
        adata.write_h5ad(path)
    with pytest.raises(DataError, match=r"have different genes: .* differ only in the version of the Ensembl"):
        GeneExpressionData(path=paths, mode=mode).setup()
