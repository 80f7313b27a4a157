"""The cells that a command works on, and the copy of them that it writes; counts in files stay there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaekit.atomic import written
from vaekit.exceptions import CheckpointError, DataError, OutputError

if TYPE_CHECKING:
    from anndata import AnnData

    from vaekit.data import QueryData
    from vaekit.models import VAE

COPIED_BYTES = 64 * 2**20  # at a time


def cells_of(model: VAE, checkpoint: str, data: str | None, layer: str | None) -> tuple[AnnData | str, str | None]:
    """Return the file of the cells (for ``data`` of None the training data's) and the layer of their counts.

    Training data that are no single file come as an AnnData.

    Raises
    ------
    CheckpointError
        If the training data are wanted and were images, in memory, or are not there as they were.
    """
    from vaekit.analysis import training_data

    if data is not None:
        return data, layer
    trained = training_data(model, in_files=True)
    if trained.kind != "counts":
        raise CheckpointError(f"{checkpoint} was trained on images; this is for gene expression")
    layer = layer or trained.counts_layer  # type: ignore[attr-defined]
    path = trained.config["init_args"]["path"]
    return (path if isinstance(path, str) else trained.adata), layer  # type: ignore[attr-defined]


@contextmanager
def written_copy(cells: QueryData, output: Path, more: int = 0) -> Iterator[Any]:
    """Give a copy of the cells to add to, an ``h5py.File``; a block that ends well makes it the output.

    Cells that are in a file are copied from there, those in memory are written.

    Parameters
    ----------
    cells
        From :func:`vaekit.analysis.query_for`.
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

    path = getattr(cells.dataset, "path", None)  # of cells in a file
    needed = more + (0 if path is None else _size(Path(path)))
    if needed > (free := shutil.disk_usage(output.parent).free):
        raise OutputError(f"{output} would take {needed / 1e9:.1f} GB, and its disk has {free / 1e9:.1f} GB left")
    with written(output) as temporary:
        if path is None:
            write_h5ad(cells.adata, temporary, output)
        elif Path(path).is_dir():
            _convert(Path(path), temporary)
        else:
            _copy(Path(path), temporary)
        with h5py.File(temporary, "r+") as file:
            yield file


def add(file: Any, place: str, values: Mapping[str, Any]) -> None:
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


def new_layer(file: Any, name: str, shape: tuple[int, int]) -> Any:
    """Return a new layer of an open .h5ad file to be filled, an ``h5py.Dataset``, float32 ``[cells, genes]``."""
    layers = _group(file, "layers")
    if name in layers:
        del layers[name]
    made = layers.create_dataset(name, shape, dtype="float32")
    made.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})  # as AnnData marks it
    return made


def _group(file: Any, place: str) -> Any:
    """Return a group of an open .h5ad file, made if need be; a link could lead to another file, to be written over."""
    import h5py
    from anndata.io import write_elem

    if place not in file:
        write_elem(file, place, {})
    if not isinstance(file.get(place, getlink=True), h5py.HardLink):
        raise DataError(f"the file of the cells has a link in the place of {place}: copy into it what it leads to")
    return file[place]


def write_h5ad(adata: AnnData, temporary: Path, output: Path) -> None:
    """Write an AnnData; say of the file ``output`` what cannot be written."""
    from anndata._io.specs.registry import IORegistryError  # anndata has no public name for it

    try:
        adata.write_h5ad(temporary)
    except IORegistryError as error:
        notes = " ".join(getattr(error, "__notes__", ()))
        raise OutputError(
            f"{output} could not be written: the cells' AnnData holds something that .h5ad cannot: take it out "
            f"({error} {notes})"
        ) from error


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
        while part := read.read(COPIED_BYTES):
            write.write(part)
            bar.update(len(part))


def _convert(source: Path, target: Path) -> None:
    """Write a zarr store as an .h5ad file; its matrices go through memory in parts."""
    import h5py

    from vaekit.data.sources import open_store

    with h5py.File(target, "w") as file:
        store = open_store(source)
        file.attrs.update(store.attrs)
        for key in store:
            _convert_element(store[key], file, key)


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
        rows = max(1, COPIED_BYTES * made.shape[0] // max(1, made.nbytes))
        for start in range(0, made.shape[0], rows):
            made[start : start + rows] = source[start : start + rows]
    else:
        write_elem(parent, key, read_elem(source))
