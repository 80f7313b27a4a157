"""Forms of the same cells in an AnnData or a file, which must not change any result."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import anndata
import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from data.format_files import write_10x_h5, write_h5mu, write_loom, write_table
from scipy import sparse

from vaekit.data import read_cells


class Form(NamedTuple):
    """Cells in another form, with the arguments that it needs."""

    cells: Any  # an AnnData, or the path of a file
    layer: str | None = None
    batch_size: int = 1024
    threads: int = 1
    chunk_cells: int | None = None  # cells per chunk of reading and of decoding


def _with_x(x: Callable[[sparse.csr_matrix], Any]) -> Callable[[AnnData, Path], Form]:
    def change(cells: AnnData, directory: Path) -> Form:
        changed = cells.copy()
        changed.X = x(changed.X)
        return Form(changed)

    return change


def _unsorted(x: sparse.csr_matrix) -> sparse.csr_matrix:
    order = np.concatenate([np.arange(start, stop)[::-1] for start, stop in zip(x.indptr, x.indptr[1:], strict=False)])
    return sparse.csr_matrix((x.data[order], x.indices[order], x.indptr), x.shape)


def _explicit_zeros(x: sparse.csr_matrix) -> sparse.csr_matrix:
    dense = x.toarray()
    row, column = np.indices(dense.shape).reshape(2, -1)
    keep = (dense.ravel() != 0) | ((row + column) % 3 == 0)
    return sparse.csr_matrix((dense.ravel()[keep], (row[keep], column[keep])), x.shape)


def _obs(**columns: Callable[[pd.Series], Any]) -> Callable[[AnnData, Path], Form]:
    def change(cells: AnnData, directory: Path) -> Form:
        changed = cells.copy()
        for key, function in columns.items():
            changed.obs[key] = function(changed.obs[key])
        return Form(changed)

    return change


def _view(cells: AnnData) -> AnnData:
    larger = anndata.concat([cells, cells[:50]], index_unique="-")
    larger.obs_names = [*cells.obs_names, *(f"other{i}" for i in range(50))]
    more = sparse.csr_matrix(np.ones((larger.n_obs, 1), dtype=np.float32))
    wide = AnnData(
        sparse.hstack([more, larger.X], format="csr"),
        obs=larger.obs,
        var=pd.DataFrame(index=["more", *cells.var_names]),
    )
    return wide[: cells.n_obs, 1:]


def _copy_on_write(cells: AnnData, directory: Path) -> Form:
    with anndata.settings.override(copy_on_write_X=True):
        return Form(cells[np.arange(cells.n_obs)].copy()[:, cells.var_names])


def _normalized(x: sparse.csr_matrix) -> sparse.csr_matrix:
    return sparse.csr_matrix(x.multiply(1e4 / x.sum(1)).log1p().astype(np.float32))


def _in_layer(cells: AnnData, directory: Path) -> Form:
    changed = cells.copy()
    changed.layers["umi"], changed.X = cells.X, _normalized(cells.X)
    return Form(changed, layer="umi")


def _in_raw(cells: AnnData, directory: Path) -> Form:
    """Store counts in .raw with genes in another order; .var has half of the genes."""
    order = np.random.default_rng(3).permutation(cells.n_vars)
    changed = cells[:, ::2].copy()
    changed.raw, changed.X = cells[:, order].copy(), _normalized(changed.X)
    return Form(changed, layer="raw")


def _written(name: str, before: Callable[[AnnData, Path], Form] | None = None, **options: Any) -> Any:
    def change(cells: AnnData, directory: Path) -> Form:
        form = Form(cells) if before is None else before(cells, directory)
        path = directory / name
        if name.endswith(".zarr"):
            form.cells.write_zarr(path)
        else:
            form.cells.write_h5ad(path, **options)
        return form._replace(cells=path)

    return change


def _separate_categories(cells: AnnData, directory: Path) -> Form:
    """Write a file like anndata 0.7: the categories are in a separate group."""
    path = directory / "old.h5ad"
    text = h5py.string_dtype()
    with h5py.File(path, "w") as file:
        x = file.create_group("X")
        for key in ("data", "indices", "indptr"):
            x[key] = getattr(cells.X, key)
        x.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": cells.shape})
        for place, table in (("obs", cells.obs), ("var", cells.var)):
            group = file.create_group(place)
            group.create_dataset("_index", data=np.array(table.index, dtype=object), dtype=text)
            group.attrs.update({"_index": "_index", "encoding-type": "dataframe", "encoding-version": "0.1.0"})
            group.attrs["column-order"] = np.array(list(table.columns), dtype=text)
            for key in table.columns:
                categorical = table[key].astype("category").cat
                values = np.array(categorical.categories, dtype=object)
                group.create_dataset(f"__categories/{key}", data=values, dtype=text)
                group["__categories"][key].attrs["ordered"] = False
                group[key] = categorical.codes.to_numpy()
                group[key].attrs["categories"] = group["__categories"][key].ref
        for place in ("layers", "obsm", "varm", "uns"):
            file.create_group(place)
    return Form(path)


def _compound_tables(cells: AnnData, directory: Path) -> Form:
    """Write a file like anndata 0.6: each table is a compound data set, and the categories are in uns."""
    path = directory / "older.h5ad"
    with h5py.File(path, "w") as file:
        file["X"] = cells.X.toarray()
        codes = {key: cells.obs[key].astype("category").cat for key in cells.obs}
        obs = np.empty(cells.n_obs, dtype=[("index", "S10"), *((key, "i1") for key in codes)])
        obs["index"] = np.array(list(cells.obs_names), "S")
        for key, categorical in codes.items():
            obs[key] = categorical.codes
            file[f"uns/{key}_categories"] = np.array(list(categorical.categories), "S")
        var = np.empty(cells.n_vars, dtype=[("index", "S10")])
        var["index"] = np.array(list(cells.var_names), "S")
        file["obs"], file["var"] = obs, var
    return Form(path)


def _two_files(cells: AnnData, directory: Path) -> Form:
    paths = [directory / "first.h5ad", directory / "second.h5ad"]
    for path, part in zip(paths, (cells[:100], cells[100:, ::-1]), strict=True):
        part.copy().write_h5ad(path)
    return Form(paths)


def _backed(cells: AnnData, directory: Path) -> Form:
    cells.write_h5ad(directory / "backed.h5ad")
    return Form(anndata.read_h5ad(directory / "backed.h5ad", backed="r"))


def _with_columns(path: Path, cells: AnnData) -> Form:
    """Return the cells of a file without columns of cells, with those of ``cells``."""
    read = read_cells(path)
    read.obs = cells.obs.loc[read.obs_names]
    return Form(read)


def _part(form: Form) -> Form:
    return Form(form.cells[np.arange(form.cells.n_obs)])


def _dask(cells: AnnData, directory: Path) -> Form:
    import dask.array

    changed = cells.copy()
    changed.X = dask.array.from_array(cells.X.toarray(), chunks=(50, cells.n_vars))
    return Form(changed)


def _sparse_dask(cells: AnnData, directory: Path) -> Form:
    form = _dask(cells, directory)
    form.cells.X = form.cells.X.map_blocks(sparse.csr_matrix)
    return form


def _rows(cells: AnnData, directory: Path) -> Form:
    return Form(cells[np.random.default_rng(1).permutation(cells.n_obs)].copy())


def _genes(cells: AnnData, directory: Path) -> Form:
    return Form(cells[:, np.random.default_rng(2).permutation(cells.n_vars)].copy())


# Other cells, or other chunks: only for functions that do not train.
ORDERS: dict[str, Callable[[AnnData, Path], Form]] = {
    "rows sorted by group": lambda cells, _: Form(cells[np.argsort(cells.obs["group"], kind="stable")].copy()),
    "rows permuted": _rows,
    "genes permuted": _genes,
    "subset of the cells": lambda cells, _: Form(cells[3::4].copy()),
    "batch size 7": lambda cells, _: Form(cells.copy(), batch_size=7),
    "chunks of 11": lambda cells, _: Form(cells.copy(), chunk_cells=11),
    "h5ad, chunks of 50": lambda cells, directory: _written("chunks.h5ad")(cells, directory)._replace(chunk_cells=50),
    "two threads": lambda cells, _: Form(cells.copy(), threads=2),
}
STORAGE: dict[str, Callable[[AnnData, Path], Form]] = {
    "CSC": _with_x(sparse.csc_matrix),
    "dense float32": _with_x(lambda x: x.toarray()),
    "dense float64": _with_x(lambda x: x.toarray().astype(np.float64)),
    "dense, columns first": _with_x(lambda x: np.asfortranarray(x.toarray())),
    "float64": _with_x(lambda x: x.astype(np.float64)),
    "int32": _with_x(lambda x: x.astype(np.int32)),
    "int64": _with_x(lambda x: x.toarray().astype(np.int64)),
    "unsorted indices": _with_x(_unsorted),
    "explicit zeros": _with_x(_explicit_zeros),
    "view": lambda cells, _: Form(_view(cells)),
    "copy on write": _copy_on_write,
    "backed": _backed,
    "part of backed cells": lambda cells, directory: _part(_backed(cells, directory)),
    "layer": _in_layer,
    "raw, fewer genes in var": _in_raw,
    "batches as integers": _obs(batch=lambda x: x.astype(int)),
    "batches as floats": _obs(batch=lambda x: x.astype(float)),
    "batches as Int64": _obs(batch=lambda x: x.astype(int).astype("Int64")),
    "batches as categories": _obs(batch=lambda x: x.astype(int).astype("category").cat.set_categories([9, 2, 1, 0])),
    "groups as strings": _obs(group=lambda x: x.astype(str).astype("string"), batch=lambda x: x.astype("string")),
    **({"dask": _dask, "dask, sparse blocks": _sparse_dask} if find_spec("dask") else {}),
}
FILES: dict[str, Callable[[AnnData, Path], Form]] = {
    "h5ad": _written("plain.h5ad"),
    "h5ad, gzip": _written("gzip.h5ad", compression="gzip"),
    "h5ad of anndata 0.7": _separate_categories,
    "h5ad of anndata 0.6": _compound_tables,
    "h5ad, CSC": _written("columns.h5ad", STORAGE["CSC"]),
    "h5ad, dense int64": _written("int64.h5ad", STORAGE["int64"]),
    "h5ad, unsorted": _written("unsorted.h5ad", STORAGE["unsorted indices"]),
    "h5ad, explicit zeros": _written("zeros.h5ad", STORAGE["explicit zeros"]),
    "h5ad, layer": _written("layer.h5ad", _in_layer),
    "h5ad, raw": _written("raw.h5ad", _in_raw),
    "h5ad, batches as integers": _written("integers.h5ad", STORAGE["batches as integers"]),
    "h5ad, rows permuted": _written("rows.h5ad", _rows),
    "h5ad, genes permuted": _written("genes.h5ad", _genes),
    "zarr": _written("plain.zarr"),
    "two files": _two_files,
    "loom": lambda cells, directory: Form(write_loom(cells, directory)),
    "h5mu": lambda cells, directory: Form(write_h5mu(cells, directory)),
    "10x .h5, columns added": lambda cells, directory: _with_columns(write_10x_h5(cells, directory), cells),
    "csv, columns added": lambda cells, directory: _with_columns(write_table(cells, directory, "a.csv"), cells),
}
