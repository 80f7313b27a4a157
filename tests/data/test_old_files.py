"""Files of every version of anndata, and of other programs, give the same cells in memory, streamed and to a query."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from vaekit import GaussianVAE
from vaekit.analysis import differential_expression, prepare_query
from vaekit.data import GeneExpressionData
from vaekit.data.cells.file_formats import read_cells
from vaekit.data.cells.sources import open_counts
from vaekit.exceptions import DataError
from vaekit.likelihoods import NegativeBinomial

CELLS, GENES = 40, 8


def cells() -> anndata.AnnData:
    generator = np.random.default_rng(0)
    counts = generator.poisson(1.0, (CELLS, GENES)).astype(np.float32)
    counts[:, 0] += 1
    obs = pd.DataFrame(index=[f"c{number}" for number in range(CELLS)])
    obs["kind"] = pd.Categorical(np.array(["z", "m", "a"])[np.arange(CELLS) % 3], categories=["z", "a", "m"])
    obs["lane"] = pd.Categorical(np.array([10, 2])[np.arange(CELLS) % 2], categories=[2, 10])
    obs["age"] = generator.normal(50, 9, CELLS)
    var = pd.DataFrame({"id": [f"ENSG{number}" for number in range(GENES)]}, index=[f"g{n}" for n in range(GENES)])
    adata = anndata.AnnData(sparse.csr_matrix(counts), obs, var)
    adata.raw = anndata.AnnData(sparse.csr_matrix(counts[:, ::-1] * 2), var=var[::-1])
    return adata


def is_text(column: pd.Series) -> bool:
    return column.dtype == object or isinstance(column.dtype, pd.StringDtype)  # the latter since pandas 3


def legacy_table(file: h5py.File, place: str, table: pd.DataFrame, text: str = "S10") -> None:
    """Write records, as anndata 0.6 did: categories are in uns."""
    kinds = [("index", text)]
    for name, column in table.items():
        kinds.append((str(name), "i1" if column.dtype == "category" else text if is_text(column) else "f8"))
    records = np.empty(len(table), dtype=kinds)
    records["index"] = np.array(list(table.index), "S")
    for name, column in table.items():
        if column.dtype == "category":
            records[name] = column.cat.codes
            categories = column.cat.categories.to_numpy()
            place_of = f"uns/{name}_categories"
            file[place_of] = categories.astype("S") if categories.dtype == object else categories
        else:
            records[name] = column.to_numpy().astype("S") if is_text(column) else column
    file[place] = records


def legacy_matrix(file: h5py.File, place: str, matrix: sparse.csr_matrix, dense: bool) -> None:
    if dense:
        file[place] = matrix.toarray()
        return
    for name in ("data", "indices", "indptr"):
        file[f"{place}/{name}"] = getattr(matrix, name)
    file[place].attrs["h5sparse_format"] = b"csr"
    file[place].attrs["h5sparse_shape"] = matrix.shape


def version_0_6(path: Path, adata: anndata.AnnData, dense: bool = False, text: object = "S10") -> None:
    with h5py.File(path, "w") as file:
        legacy_matrix(file, "X", adata.X, dense)
        legacy_table(file, "obs", adata.obs, text)
        legacy_table(file, "var", adata.var, text)
        legacy_matrix(file, "raw.X", adata.raw.X, dense)
        legacy_table(file, "raw.var", adata.raw.var, text)


def version_0_7(path: Path, adata: anndata.AnnData) -> None:
    """Write with anndata, then put categories and encodings as 0.7 did."""
    adata.write_h5ad(path)
    with h5py.File(path, "r+") as file:
        for table in ("obs", "var", "raw/var"):
            group = file[table]
            group.attrs["encoding-version"] = "0.1.0"
            for name in list(group):
                if isinstance(group[name], h5py.Dataset):
                    for key in list(group[name].attrs):
                        del group[name].attrs[key]
                    continue
                codes, categories = group[name]["codes"][:], group[name]["categories"][:]
                del group[name]
                made = group.require_group("__categories").create_dataset(name, data=categories)
                made.attrs["ordered"] = False
                group.create_dataset(name, data=codes).attrs["categories"] = made.ref
        for place in ("layers", "obsm", "obsp", "varm", "varp", "uns"):
            file[place].attrs.clear()


def bytes_of_another_program(path: Path, adata: anndata.AnnData) -> None:
    """Strings as ASCII bytes of any length, without the encoding that anndata writes."""
    adata.write_h5ad(path)
    with h5py.File(path, "r+") as file:
        for place in ("obs/_index", "obs/kind/categories", "var/_index", "var/id", "raw/var/_index", "raw/var/id"):
            values = [value.encode() for value in file[place].asstr()[:]]
            del file[place]
            file.create_dataset(place, data=values, dtype=h5py.string_dtype("ascii"))


def big_endian(path: Path, adata: anndata.AnnData, dense: bool = False) -> None:
    matrices = ["X/data", "X/indices", "X/indptr", "raw/X/data"]
    if dense:
        adata.X, matrices = adata.X.toarray(), ["X", "raw/X"]
        adata.raw = anndata.AnnData(adata.raw.X.toarray(), var=adata.raw.var)
    adata.write_h5ad(path)
    with h5py.File(path, "r+") as file:
        for place in ("obs/age", *matrices):
            values, attributes = file[place][:], dict(file[place].attrs)
            del file[place]
            file.create_dataset(place, data=values.astype(values.dtype.newbyteorder(">"))).attrs.update(attributes)


def unsigned_codes(path: Path, adata: anndata.AnnData) -> None:
    adata.write_h5ad(path)
    with h5py.File(path, "r+") as file:
        for place in ("obs/kind/codes", "obs/lane/codes"):
            values, attributes = file[place][:], dict(file[place].attrs)
            del file[place]
            file.create_dataset(place, data=values.astype(np.uint16)).attrs.update(attributes)


FILES: dict[str, Callable[[Path, anndata.AnnData], None]] = {
    "0.6": version_0_6,
    "0.6 dense": lambda path, adata: version_0_6(path, adata, dense=True),
    "0.6 strings of any length": lambda path, adata: version_0_6(path, adata, text=h5py.string_dtype()),
    "0.7": version_0_7,
    "bytes": bytes_of_another_program,
    "big-endian": big_endian,
    "big-endian dense": lambda path, adata: big_endian(path, adata, dense=True),
    "unsigned codes": unsigned_codes,
}
ARGUMENTS = {"batch_key": "lane", "label_key": "kind", "continuous_covariate_keys": ["age"]}


def same(one: object, other: object) -> None:
    rows = list(range(CELLS))
    first, second = (dataset.__getitems__(rows) for dataset in (one, other))  # type: ignore[attr-defined]
    for name in ("x", "covariates", "label", "size_factor"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layer", [None, "raw"])
@pytest.mark.parametrize("kind", FILES)
def test_every_reader_gives_the_same(tmp_path: Path, kind: str, layer: str | None) -> None:
    path = tmp_path / "cells.h5ad"
    FILES[kind](path, cells())
    right = GeneExpressionData(cells(), layer=layer, **ARGUMENTS)  # type: ignore[arg-type]
    model = GaussianVAE(right.features, NegativeBinomial(), right.covariates, latent_dim=2, hidden=(4,))
    model.data_registry = right.state_dict()
    for mode in (
        ["streamed"] if kind == "big-endian" else ["in_memory"] if "dense" in kind else ["in_memory", "streamed"]
    ):
        data = GeneExpressionData(path=str(path), mode=mode, layer=layer, **ARGUMENTS)  # type: ignore[arg-type]
        same(data.dataset, right.dataset)
        assert data.batch_categories == ["2", "10"]
        assert data.label_categories == ["z", "a", "m"]
        assert data.obs_names == right.obs_names
        assert data.feature_names == right.feature_names
    query = prepare_query(model.eval(), path, None, None, "kind")
    same(query.dataset, right.dataset)
    for source in (path, str(path)) if kind == "big-endian" else (path, read_cells(path)):
        table = open_counts(source, layer, mode="backed").obs
        assert list(table.index) == list(cells().obs_names)
        assert list(table["kind"].astype(str)) == list(cells().obs["kind"].astype(str))
        np.testing.assert_array_equal(table["age"], cells().obs["age"])
    tables = [differential_expression(source, model, "kind", "z") for source in (path, cells())]
    pd.testing.assert_frame_equal(*tables)
    names = GeneExpressionData(path=str(path), gene_name_key="id", layer=layer, mode=mode).feature_names  # type: ignore[arg-type]
    assert names == [f"ENSG{number}" for number in (range(GENES) if layer is None else reversed(range(GENES)))]


def test_what_anndata_cannot_read_is_named(tmp_path: Path) -> None:
    """Scipy has no sparse matrices in the other order of bytes; streamed they are read."""
    big_endian(tmp_path / "cells.h5ad", cells())
    with pytest.raises(DataError, match=r"cells\.h5ad cannot be read .*>f4.*key 'X'"):
        read_cells(tmp_path / "cells.h5ad")


@pytest.mark.parametrize("reader", [read_cells, open_counts])
def test_codes_that_do_not_exist_are_rejected(tmp_path: Path, reader: Callable) -> None:
    path = tmp_path / "cells.h5ad"
    cells().write_h5ad(path)
    with h5py.File(path, "r+") as file:
        file["obs/kind/codes"][3] = 9
    with pytest.raises(DataError, match=r"cells\.h5ad cannot be read.*kind"):
        reader(path)


NULLABLE = {
    "Int64": pd.array([1, None, *[2] * 38], dtype="Int64"),
    "boolean": pd.array([True, None, *[False] * 38], dtype="boolean"),
    "string": pd.array(["a", None, *["b"] * 38], dtype="string"),
    "None among strings": np.array(["a", None, *["b"] * 38], dtype=object),
    "categories": pd.Categorical(["a", None, *["b"] * 38], categories=["c", "b", "a"]),
    "ordered": pd.Categorical(["a", None, *["b"] * 38], categories=["b", "a"], ordered=True),
    "categories of booleans": pd.Categorical([True, None, *[False] * 38]),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["h5ad", "zarr"])
@pytest.mark.parametrize("column", NULLABLE)
def test_missing_values_of_every_type(tmp_path: Path, column: str, form: str) -> None:
    adata = cells()
    adata.obs["kind"] = NULLABLE[column]
    path = tmp_path / f"cells.{form}"
    with anndata.settings.override(allow_write_nullable_strings=True):
        getattr(adata, f"write_{form}")(path)
    right = GeneExpressionData(adata, label_key="kind")
    assert right.labels[1] is None
    for mode in ("in_memory", "streamed"):
        data = GeneExpressionData(path=str(path), label_key="kind", mode=mode)  # type: ignore[arg-type]
        assert data.labels.tolist() == right.labels.tolist()
        assert data.label_categories == right.label_categories
        with pytest.raises(DataError, match=r"batch_key='kind': 1 of 40 cells of .* have no batch \(NaN\)"):
            GeneExpressionData(path=str(path), batch_key="kind", mode=mode).setup()  # type: ignore[arg-type]
