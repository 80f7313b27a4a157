"""The cells that a command works on, and the copy of them that it writes; counts in files stay there."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaekit._core import memory_budget
from vaekit._core.atomic import atomic_write
from vaekit.exceptions import CheckpointError, DataError, OutputError, VaekitError, format_bytes

if TYPE_CHECKING:
    from anndata import AnnData

    from vaekit.data import QueryData
    from vaekit.models import VAE

DATAFRAME = "0.2.0"  # version of the encoding of tables to which columns can be added


def resolve_cells(model: VAE, checkpoint: str, data: str | None, layer: str | None) -> tuple[AnnData | str, str | None]:
    """Return the file of the cells (for ``data`` of None the training data's) and the layer of their counts.

    Training data that are no single file come as an AnnData.

    Raises
    ------
    CheckpointError
        If the training data are wanted and were images, in memory, or are not there as they were.
    """
    from vaekit.analysis import load_training_data

    if data is not None:
        return data, layer
    trained = load_training_data(model, backed=True)
    if trained.kind != "counts":
        raise CheckpointError(f"{checkpoint} was trained on images; this is for gene expression")
    layer = layer or trained.counts_layer  # type: ignore[attr-defined]
    path = trained.config["init_args"]["path"]
    return (path if isinstance(path, str) else trained.adata), layer  # type: ignore[attr-defined]


@contextmanager
def open_output_copy(source: AnnData | str, cells: QueryData, output: Path, more: int = 0) -> Iterator[Any]:
    """Give a copy of the cells to add to, an ``h5py.File``; a block that ends well makes it the output.

    A file is copied byte by byte. A zarr store, a file of anndata 0.6 or older, and cells in memory are written. So
    fields that cannot be written are found before the work of the block.

    Parameters
    ----------
    source
        From :func:`resolve_cells`.
    cells
        From :func:`vaekit.analysis.prepare_query`.
    output
        The .h5ad file to write, whole or not at all.
    more
        Bytes that will be added.

    Raises
    ------
    OutputError
        If it cannot be written: on a disk that is full, or too small for it, or as the cells hold what .h5ad files
        cannot.
    """
    import h5py

    path = Path(source).expanduser() if isinstance(source, str) else None
    check_room(output, more + (0 if path is None else _size(path)))
    with atomic_write(output) as temporary, _nullable_strings():
        if path is not None and path.is_dir():
            _convert(path, temporary, output)
        elif path is not None and _can_be_added_to(path):
            _copy(path, temporary)
        else:
            write_h5ad(cells.adata, temporary, output)
        with h5py.File(temporary, "r+") as file:
            yield file


def check_room(output: Path, needed: int) -> None:
    """Raise an error if the disk of ``output`` does not have room for that many bytes.

    Raises
    ------
    OutputError
        If it does not.
    """
    free = shutil.disk_usage(output.parent).free
    if needed > free:
        raise OutputError(
            f"{output} needs {format_bytes(needed)}, but its disk has {format_bytes(free)} free. Free some space, or "
            "choose a directory on another disk."
        )


def write_fields(file: Any, place: str, values: Mapping[str, Any]) -> None:
    """Add fields to an open .h5ad file, replacing those of the same names: to its ``obs``, ``obsm`` or ``uns``.

    Raises
    ------
    DataError
        If that place is a link.
    """
    import h5py
    import numpy as np
    from anndata.io import write_elem

    group = _group(file, place)
    for key, value in values.items():
        write_elem(group, key, value)
    if place == "obs" and values:
        columns = dict.fromkeys([*map(str, group.attrs["column-order"]), *values])
        group.attrs["column-order"] = np.array(list(columns), dtype=h5py.string_dtype())


def new_array(file: Any, place: str, name: str, shape: tuple[int, int]) -> Any:
    """Return a new array in an open .h5ad file to be filled, an ``h5py.Dataset``, float32 ``[cells, genes]``."""
    group = _group(file, place)
    if name in group:
        del group[name]
    made = group.create_dataset(name, shape, dtype="float32")
    made.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})  # as AnnData marks it
    return made


def _group(file: Any, place: str) -> Any:
    """Return a group of an open .h5ad file, made if need be; a link could lead to another file, to be written over."""
    import h5py
    from anndata.io import read_elem, write_elem

    if place not in file:
        write_elem(file, place, {})
    elif place == "obs" and file[place].attrs.get("encoding-version") != DATAFRAME:  # of anndata 0.7
        table = read_elem(file[place])
        del file[place]
        write_elem(file, place, table)
    if not isinstance(file.get(place, getlink=True), h5py.HardLink):
        raise DataError(f"the file of the cells has a link in the place of {place}: copy into it what it leads to")
    return file[place]


def write_h5ad(adata: AnnData, temporary: Path, output: Path) -> None:
    """Write an AnnData; say of the file ``output`` what cannot be written."""
    try:
        with _nullable_strings():
            adata.write_h5ad(temporary)
    except OSError:
        raise
    except Exception as error:  # anndata and h5py raise many types for a foreign value
        raise _unwritable(output, error) from error


def _unwritable(output: Path, error: Exception) -> OutputError:
    """Return the error for a field that .h5ad files cannot hold; anndata names it in a note."""
    note = re.search(r"key '(.+?)' of .* to (\S+)", " ".join(getattr(error, "__notes__", ())))
    field = "a field" if note is None else note[1] if note[2] == "/" else f"{note[2].strip('/')}[{note[1]!r}]"
    return OutputError(
        f"{output} could not be written: {field} of the cells is a value that .h5ad files cannot hold ({error}). "
        "Remove it, or convert it to strings, numbers or categories."
    )


@contextmanager
def _nullable_strings() -> Iterator[None]:
    """Allow anndata to write nullable strings, which its versions before 0.11 cannot read."""
    from anndata import settings

    option = "allow_write_nullable_strings"
    with settings.override(**({option: True} if hasattr(settings, option) else {})):
        yield


def _can_be_added_to(path: Path) -> bool:
    """Return whether a .h5ad file holds its tables in groups, as anndata 0.7 and later write them."""
    import h5py

    from vaekit.data.cells.stores import open_store

    file = open_store(path)
    return isinstance(file["obs"], h5py.Group) and "raw.X" not in file


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def _copy(source: Path, target: Path) -> None:
    """Copy a file, with a progress bar if it takes long."""
    from tqdm.auto import tqdm

    with (
        source.open("rb") as read,
        target.open("wb") as write,
        tqdm(total=source.stat().st_size, desc="copying", unit="B", unit_scale=True, delay=1) as bar,
    ):
        while part := read.read(memory_budget.CHUNK_BYTES):
            write.write(part)
            bar.update(len(part))


def _convert(source: Path, target: Path, output: Path) -> None:
    """Write a zarr store as an .h5ad file; its matrices go through memory in parts."""
    import h5py

    from vaekit.data.cells.stores import open_store

    with h5py.File(target, "w") as file:
        store = open_store(source)
        file.attrs.update(store.attrs)
        for key in store:
            try:
                _convert_element(store[key], file, key)
            except (OSError, VaekitError):
                raise
            except Exception as error:  # anndata and h5py raise many types for a foreign value
                raise _unwritable(output, error) from error


def _convert_element(source: Any, parent: Any, key: str) -> None:
    from anndata.io import read_elem, write_elem

    kind = source.attrs.get("encoding-type")
    if kind in ("dict", "raw", "csr_matrix", "csc_matrix"):
        group = parent.create_group(key)
        group.attrs.update(source.attrs)
        for name in source:
            _convert_element(source[name], group, name)
    elif kind in (None, "array") and source.dtype.kind in "buif" and source.ndim:
        made = parent.create_dataset(key, source.shape, dtype=source.dtype)
        made.attrs.update(source.attrs)
        rows = max(1, memory_budget.CHUNK_BYTES * made.shape[0] // max(1, made.nbytes))
        for start in range(0, made.shape[0], rows):
            made[start : start + rows] = source[start : start + rows]
    else:
        write_elem(parent, key, read_elem(source))
