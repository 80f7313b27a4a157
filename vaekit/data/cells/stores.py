""".h5ad files and zarr stores: opened safely, with their tables as every version of anndata has written them."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit._core.arguments import short_repr
from vaekit._core.memory_budget import check_memory
from vaekit._core.urls import as_path, is_url
from vaekit.data.cells.not_cells import check_no_checkpoint
from vaekit.data.containment import check_hdf5, check_regular, check_zarr
from vaekit.exceptions import DataError, VaekitError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

TABLE_REMEDY = "The table is damaged. Write the file again, or copy it again."
FILE_REMEDY = (
    "If it is not damaged, store its counts as CSR, which can stay in the file (mode='streamed'), or remove layers."
)
GENES_IN_FLAGS = (
    "--genes_in, or --data.genes_in of fit and evaluate; in Python also vaekit.data.read_cells(path, genes_in=...)"
)
READABLE = (".h5ad", ".zarr", ".h5", ".loom", ".h5mu", ".csv", ".tsv", ".txt", ".gz")  # that hints name
_TABLE = "a table; it is truncated, or is not text with the same number of fields in each row"
_KINDS = {  # of unreadable files, by ending
    ".h5": "10x .h5; it is truncated or was not written by Cell Ranger",
    ".hdf5": "10x .h5; it is truncated or was not written by Cell Ranger",
    ".loom": ".loom; it is truncated or was not written by loompy",
    ".h5mu": ".h5mu; it is truncated or was not written by MuData",
    **dict.fromkeys((".csv", ".tsv", ".tab", ".txt"), _TABLE),
}


def absolute_paths(path: Any) -> list[str]:
    """Return a file path, or several, as absolute paths or URLs; raise a DataError for other types."""
    paths = [path] if isinstance(path, str | Path) else path
    if not isinstance(paths, Sequence) or not all(isinstance(part, str | Path) for part in paths):
        value = short_repr(path)
        raise DataError(
            f"path={value} must be a file path or a list of file paths. Join several AnnData by anndata.concat."
        )
    if not paths:
        raise DataError("path=[] must name at least one file.")
    return [as_path(part) if is_url(part) else str(Path(part).expanduser().absolute()) for part in paths]


def describe_paths(paths: Sequence[str | Path]) -> str:
    """Return the name of one or several files in messages."""
    return str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"


def open_store(path: str | Path) -> Any:
    """Open an .h5ad file as an ``h5py.File``, or a zarr store as a ``zarr.Group``, for reading.

    Every file is opened by this function, which checks that all its data are inside it.
    """
    if is_url(path):
        from vaekit.data.cells.remote_stores import open_remote  # needs zarr, which is slow to import

        with translate_read_errors(path):
            return open_remote(as_path(path))
    file = check_path(path)
    with translate_read_errors(path):
        if file.is_dir():
            import zarr

            check_zarr(file)
            # The consolidated copy of the metadata may differ from the checked files. zarr 2 ignores it.
            direct: dict[str, Any] = {} if zarr.__version__.startswith("2.") else {"use_consolidated": False}
            return zarr.open_group(str(file), mode="r", **direct)
        import h5py

        store = h5py.File(file, "r")
        check_hdf5(store, path)
        return store


def check_path(path: str | Path) -> Path:
    """Return the path of a file or directory that exists, with ``~`` replaced.

    Raises
    ------
    DataError
        If it is a link to no file, or a pipe or device, or does not exist.
    """
    absolute_paths(path)
    check_no_checkpoint(path, "path")
    file = Path(path).expanduser()
    if file.is_symlink() and not file.exists():
        raise DataError(f"{path} is a link to {os.readlink(file)!r}, which leads to no file. Pass the path of a file.")
    if not file.exists():
        raise DataError(f"{path} does not exist. {_siblings(file.parent, file.name)}")
    check_regular(file, path)
    return file


def _siblings(directory: Path, name: str) -> str:
    """Return a hint that names the files of a directory that may hold cells."""
    if not directory.is_dir():
        return f"The directory {str(directory)!r} does not exist either."
    names = sorted(file.name for file in directory.iterdir() if file.suffix.lower() in READABLE)
    return f"In {str(directory)!r}: " + did_you_mean(name, names)


@contextlib.contextmanager
def translate_read_errors(path: str | Path | None, element: str = "") -> Iterator[None]:
    """Raise any error of a block that reads a file as a DataError that names the file.

    h5py, zarr and anndata raise errors of many types on foreign content, MemoryError included.
    """
    try:
        yield
    except VaekitError:
        raise
    except BlockingIOError as error:  # HDF5 locks the files that it writes
        raise DataError(f"{path} is open for writing in another program. Close it there, then try again.") from error
    except PermissionError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    except Exception as error:
        # anndata names the element in a note
        line = " ".join(f"{type(error).__name__}: {error} {' '.join(getattr(error, '__notes__', ()))}".split())
        raise DataError(f"{path} cannot be read as {_kind(Path(path or ''), element)} ({line}).") from error


def _kind(path: Path, element: str) -> str:
    """Return the form in which a file was read, and the likely reason why that failed."""
    name = path.name.lower().removesuffix(".gz")
    if path.is_dir():
        if not is_zarr(path):
            return "a 10x directory; one of its files is truncated or was not written by Cell Ranger"
        kind = "a zarr store"
    elif Path(name).suffix in _KINDS:
        return _KINDS[Path(name).suffix]
    else:
        kind = ".h5ad"
    return f"{kind}; {f'its table {element}' if element else 'it is truncated or'} was not written by AnnData"


def is_zarr(path: Path) -> bool:
    """Return whether a directory is a zarr store."""
    return any((path / name).exists() for name in ("zarr.json", ".zgroup"))


def read_store(path: str | Path) -> AnnData:
    """Read an .h5ad file or a zarr store into memory, if there is room for all of it."""
    store = open_store(path)
    import anndata
    import h5py

    with warnings.catch_warnings(), translate_read_errors(path):
        warnings.filterwarnings("ignore", message="Variable names are not unique")  # checked later
        check_memory(num_bytes(store), f"{path}", FILE_REMEDY)
        adata = _read_h5ad(path) if isinstance(store, h5py.File) else anndata.io.read_zarr(store)
        adata.obs, adata.var = load_table(store, "obs"), load_table(store, "var")
        if adata.raw is not None:
            adata.raw._var = load_table(store, "raw.var" if "raw.var" in store else "raw/var")
        return adata


def _read_h5ad(path: str | Path) -> AnnData:
    """Read an .h5ad file, which :func:`open_store` has checked, into memory."""
    import anndata

    if is_url(path):
        from vaekit.data.cells.remote_stores import read_remote_h5ad

        return read_remote_h5ad(as_path(path))
    return anndata.io.read_h5ad(Path(path).expanduser())


def concat_cells(parts: Sequence[AnnData]) -> AnnData:
    """Return the cells of all parts, with the first one's order of genes.

    Their table has the columns that all parts have, and columns of text that only some have, such as the labels of
    some files; the values of the other parts are missing.
    """
    import anndata

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Observation names are not unique")  # files number their cells
        cells = anndata.concat(list(parts), join="inner", merge="same")
    for name in dict.fromkeys(name for part in parts for name in part.obs.columns if name not in cells.obs.columns):
        if (values := _text_of_some([part.obs for part in parts], name)) is not None:
            cells.obs[name] = values
    return cells


def _text_of_some(tables: Sequence[pd.DataFrame], name: str) -> pd.Categorical | None:
    """Return a column that some tables have, with missing values for the others; None if it is not text."""
    import pandas as pd
    from pandas.api.types import infer_dtype, union_categoricals

    columns = []
    for table in tables:
        values = table[name] if name in table.columns else pd.Series(None, index=table.index, dtype=object)
        if values.ndim != 1:  # a name that is used twice
            return None
        columns.append(pd.Categorical(values))
    if any(infer_dtype(column.categories) not in ("string", "empty") for column in columns):
        return None
    columns = [pd.Categorical(column.astype(object), column.categories.astype(object)) for column in columns]
    return union_categoricals(columns, ignore_order=True)


def read_table(store: Any, name: str, path: str | Path) -> pd.DataFrame:
    """Read a table of an open file: "obs", "var" or "raw/var"."""
    with translate_read_errors(path, name):
        check_memory(num_bytes(store[name]), f"{path}, {name}", TABLE_REMEDY)
        return load_table(store, name)


def read_colors(store: Any, obs: pd.DataFrame) -> dict[str, np.ndarray]:
    """Read the colors ``uns["KEY_colors"]`` of an open file for the columns of ``obs``; damaged ones are ignored."""
    colors = {}
    for name in (f"{key}_colors" for key in obs.columns):
        element: Any = store["uns"][name] if "uns" in store and name in store["uns"] else None
        if _is_array(element) and len(element.shape) == 1 and element.size <= len(obs):
            with contextlib.suppress(OSError, ValueError, TypeError):
                colors[name] = _to_text(np.asarray(element[...]))
    return colors


def load_table(store: Any, name: str) -> pd.DataFrame:
    """Read a table of an open file or group, as any version of anndata has written it."""
    from anndata.io import read_elem

    element = store[name]
    return _decode(_read_legacy_table(store, element) if _is_array(element) else read_elem(element))


def _is_array(element: Any) -> bool:
    """Return whether an element of an HDF5 file or zarr store is an array, not a group."""
    return hasattr(element, "shape")


def num_bytes(element: Any) -> int:
    """Return the size of an array, or of all arrays of a group."""
    if _is_array(element):
        return 0 if element.shape is None else int(element.nbytes)  # anndata stores None without a shape
    return sum(num_bytes(element[name]) for name in element)


def _read_legacy_table(store: Any, element: Any) -> pd.DataFrame:
    """Read a table of anndata 0.6 and older: an array of records, whose categories are in ``.uns``."""
    import pandas as pd

    values = element[...]
    table = pd.DataFrame({name: _to_text(values[name]) for name in values.dtype.names})
    table = table.set_index(table.columns[0])
    for name in table.columns:
        key, codes = f"uns/{name}_categories", table[name].to_numpy()
        if key not in store or codes.dtype.kind not in "iu":
            continue
        categories = _to_text(np.atleast_1d(store[key][...]))
        # The other table may have a column of the same name.
        if len(codes) == 0 or codes.max() < len(categories):
            table[name] = pd.Categorical.from_codes(codes, list(categories))
    return table


def _decode(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with text for bytes, which other programs than anndata write."""
    import pandas as pd

    names = table.index.to_numpy()
    if (decoded := _to_text(names)) is not names:
        table.index = pd.Index(decoded, name=table.index.name)
    for name, column in table.items():
        if isinstance(column.dtype, pd.CategoricalDtype):
            if column.cat.categories.dtype == object:
                table[name] = column.cat.rename_categories(list(_to_text(column.cat.categories.to_numpy())))
        elif column.dtype == object:
            table[name] = _to_text(column.to_numpy())
    return table


def _to_text(values: np.ndarray) -> np.ndarray:
    """Return values with decoded bytes, and numbers in native byte order."""
    if values.dtype.kind in "iuf":
        return values.astype(values.dtype.newbyteorder("="))
    if values.dtype.kind == "S" or (values.dtype == object and any(isinstance(value, bytes) for value in values)):
        decoded = [value.decode() if isinstance(value, bytes) else value for value in values.tolist()]
        return np.array(decoded, dtype=object)
    return values
