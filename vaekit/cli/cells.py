"""The copy of the cells' file to which a command adds results; counts in files stay there."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaekit._core.atomic import atomic_write
from vaekit._core.memory_budget import CHUNK_BYTES
from vaekit._core.urls import as_path, is_url
from vaekit.exceptions import DataError, OutputError, VaekitError, format_bytes

if TYPE_CHECKING:
    from anndata import AnnData

    from vaekit.data.cells.query import QueryData

TABLE_VERSION = "0.2.0"  # of the encoding of tables to which columns can be added


@contextmanager
def open_output_copy(source: AnnData | list[str], cells: QueryData, output: Path, num_bytes: int = 0) -> Iterator[Any]:
    """Yield a copy of the cells as an ``h5py.File``, which becomes the output if the block succeeds.

    A file is copied byte by byte, or downloaded. A zarr store, a file of anndata 0.6 or older, and cells in memory are
    written, so fields that cannot be written are found before the block begins.

    Parameters
    ----------
    source : AnnData or list of str
        Cells from :func:`vaekit.cli.input_cells.resolve_cells`: in memory, or one file.
    cells : QueryData
        The same cells from :func:`vaekit.analysis.prepare_query`.
    output : Path
        .h5ad file to write, completely or not at all.
    num_bytes : int
        Size of the fields that the block adds.

    Raises
    ------
    OutputError
        If it cannot be written: its disk is full or too small, or .h5ad files cannot contain a value of the cells.
    """
    import h5py

    from vaekit.data.cells.stores import open_store, read_store

    path = source[0] if isinstance(source, list) else None
    store = None if path is None else open_store(path)
    check_room(output, num_bytes + (0 if path is None else _size(path, store)))
    with atomic_write(output) as temporary, _nullable_strings():
        if path is None or store is None:
            write_h5ad(cells.adata, temporary, output)
        elif not isinstance(store, h5py.File):
            _convert(store, temporary, output)
        elif isinstance(store["obs"], h5py.Group) and "raw.X" not in store:
            _copy(path, temporary)
        else:  # of anndata 0.6 or older, which had no groups for tables
            write_h5ad(read_store(path), temporary, output)
        with h5py.File(temporary, "r+") as file:
            yield file


def check_room(output: Path, num_bytes: int) -> None:
    """Check that the disk of ``output`` has room for a number of bytes.

    Raises
    ------
    OutputError
        If it does not.
    """
    free = shutil.disk_usage(output.parent).free
    if num_bytes > free:
        raise OutputError(
            f"{output} needs {format_bytes(num_bytes)}, but its disk has {format_bytes(free)} free. Free some space, "
            "or choose a directory on another disk."
        )


def write_fields(file: Any, location: str, values: Mapping[str, Any]) -> None:
    """Add fields to ``obs``, ``obsm`` or ``uns`` of an open .h5ad file, replacing fields of the same names.

    Raises
    ------
    DataError
        If the location is a link.
    """
    import h5py
    import numpy as np
    from anndata.io import write_elem

    group = _open_group(file, location)
    for key, value in values.items():
        write_elem(group, key, value)
    if location == "obs" and values:
        columns = dict.fromkeys([*map(str, group.attrs["column-order"]), *values])
        group.attrs["column-order"] = np.array(list(columns), dtype=h5py.string_dtype())


def new_array(file: Any, location: str, name: str, shape: tuple[int, int]) -> Any:
    """Return a new float32 ``h5py.Dataset`` of shape (cells, genes) in an open .h5ad file."""
    group = _open_group(file, location)
    if name in group:
        del group[name]
    array = group.create_dataset(name, shape, dtype="float32")
    array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})  # required by AnnData
    return array


def _open_group(file: Any, location: str) -> Any:
    """Return a group of an open .h5ad file, created if necessary; a link could lead to another file."""
    import h5py
    from anndata.io import read_elem, write_elem

    if location not in file:
        write_elem(file, location, {})
    elif location == "obs" and file[location].attrs.get("encoding-version") != TABLE_VERSION:  # of anndata 0.7
        table = read_elem(file[location])
        del file[location]
        write_elem(file, location, table)
    if not isinstance(file.get(location, getlink=True), h5py.HardLink):
        raise DataError(f"{location} of the cells' file is a link. Copy its target into the file.")
    return file[location]


def write_h5ad(adata: AnnData, temporary: Path, output: Path) -> None:
    """Write an AnnData to a temporary file; errors name ``output`` and the field."""
    try:
        with _nullable_strings():
            adata.write_h5ad(temporary)
    except OSError:
        raise
    except Exception as error:  # anndata and h5py raise many types
        raise _not_storable(output, error) from error


def _not_storable(output: Path, error: Exception) -> OutputError:
    """Return the error for a field that .h5ad files cannot contain; anndata names it in a note."""
    note = re.search(r"key '(.+?)' of .* to (\S+)", " ".join(getattr(error, "__notes__", ())))
    field = "a field" if note is None else note[1] if note[2] == "/" else f"{note[2].strip('/')}[{note[1]!r}]"
    return OutputError(
        f"{output} could not be written: {field} of the cells has a value that .h5ad files cannot contain ({error}). "
        "Remove it, or convert it to strings, numbers or categories."
    )


def _nullable_strings() -> Any:
    """Allow anndata to write nullable strings, which its versions before 0.11 cannot read."""
    from anndata import settings

    return settings.override(allow_write_nullable_strings=True)


def _size(path: str, store: Any) -> int:
    """Return the size of a file or a zarr store on disk; for a store on a server, that of its decoded arrays."""
    if not is_url(path):
        file = Path(path).expanduser()
        return sum(part.stat().st_size for part in ([file] if file.is_file() else file.rglob("*")))
    import h5py

    from vaekit.data.cells.remote_file import RemoteFile
    from vaekit.data.cells.stores import num_bytes

    return RemoteFile(as_path(path)).size if isinstance(store, h5py.File) else num_bytes(store)


def _copy(path: str, target: Path) -> None:
    """Copy or download a file, with a progress bar after one second."""
    from tqdm.auto import tqdm

    if is_url(path):
        from vaekit.data.cells.remote_file import download

        download(as_path(path), target)
        return
    source = Path(path).expanduser()
    bar = tqdm(total=source.stat().st_size, desc="copying", unit="B", unit_scale=True, delay=1)
    with bar, source.open("rb") as reader, target.open("wb") as writer:
        while chunk := reader.read(CHUNK_BYTES):
            writer.write(chunk)
            bar.update(len(chunk))


def _convert(store: Any, target: Path, output: Path) -> None:
    """Write an open zarr store as an .h5ad file, with bounded memory for its matrices."""
    import h5py

    with h5py.File(target, "w") as file:
        file.attrs.update(store.attrs)
        for key in store:
            try:
                _convert_element(store[key], file, key)
            except (OSError, VaekitError):
                raise
            except Exception as error:  # anndata and h5py raise many types
                raise _not_storable(output, error) from error


def _convert_element(source: Any, parent: Any, key: str) -> None:
    from anndata.io import read_elem, write_elem

    encoding = source.attrs.get("encoding-type")
    if encoding in ("dict", "raw", "csr_matrix", "csc_matrix"):
        group = parent.create_group(key)
        group.attrs.update(source.attrs)
        for name in source:
            _convert_element(source[name], group, name)
    elif encoding in (None, "array") and source.dtype.kind in "buif" and source.ndim:
        array = parent.create_dataset(key, source.shape, dtype=source.dtype)
        array.attrs.update(source.attrs)
        num_rows = max(1, CHUNK_BYTES * array.shape[0] // max(1, array.nbytes))
        for start in range(0, array.shape[0], num_rows):
            array[start : start + num_rows] = source[start : start + num_rows]
    else:
        write_elem(parent, key, read_elem(source))
