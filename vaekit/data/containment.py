"""Checks that a file or store holds all its data itself, so that a foreign one cannot read the user's other files.

HDF5 reads data sets of other files through external links, external storage and virtual data sets. A zarr store reads
the targets of symbolic links. These data may end up in an output, which the user may pass on.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaekit.exceptions import DataError

if TYPE_CHECKING:
    import h5py

METADATA = (".zarray", ".zmetadata", "zarr.json")
REMEDY = (
    "It was not read. If you trust it, read it with anndata, check the result, and write it again with "
    "AnnData.write_h5ad or AnnData.write_zarr, which store all data in one place."
)


def check_regular(path: Path, shown: str | Path) -> None:
    """Raise a DataError if a path is neither a file nor a directory: a named pipe would be waited for forever.

    Parameters
    ----------
    path
        Existing path.
    shown
        The path as the user gave it, for the message.
    """
    if kind := _special_kind(path):
        raise DataError(f"{shown} is {kind}, not a file. Copy its content to a file and give the path of that file.")


def check_hdf5(file: h5py.File, shown: str | Path) -> None:
    """Raise a DataError if an object of an open HDF5 file has data outside this file.

    All links and data sets, and references in attributes, are followed, whether or not AnnData would read them:
    commands copy whole files. No data are read, so that references in data sets are not followed; nothing else follows
    them either.
    """
    from h5py import h5d, h5g, h5o, h5r

    seen: set[int] = set()
    soft = []
    waiting = [(h5o.open(file.id, b"/"), "")]
    while waiting:
        item, place = waiting.pop()
        info = h5o.get_info(item)
        if info.addr in seen:  # links may form cycles
            continue
        seen.add(info.addr)
        if isinstance(item, h5d.DatasetID):
            _check_dataset(item, shown, place)
        for found in _references(item):
            with contextlib.suppress(KeyError, ValueError, RuntimeError, OSError):  # to what was deleted
                waiting.append((h5r.dereference(found, item), f"{place} (by reference)"))
        for name in item if isinstance(item, h5g.GroupID) else ():
            inner = f"{place}/{name.decode(errors='replace')}"
            if _is_hard(item, name, shown, inner):
                waiting.append((h5o.open(item, name), inner))
            else:
                soft.append((item, name, inner))
    for group, name, place in soft:  # last: on the way no external link is left, whose file would be opened
        try:
            outside = h5o.get_info(h5o.open(group, name)).addr not in seen
        except (KeyError, RuntimeError, OSError):
            outside = True
        if outside:
            target = group.links.get_val(name).decode(errors="replace")
            raise _rejected(shown, place, f"is a link to {target!r}, which is not in the file")


def check_zarr(store: Path) -> Iterator[Path]:
    """Yield the metadata files of a zarr store.

    Raises
    ------
    DataError
        If a file or directory of the store is a link that leads out of it or to nothing, is neither a file nor a
        directory, or is a directory that replaces a chunk.
    """
    root = os.path.realpath(store)
    waiting: list[tuple[str, int | None]] = [(str(store), None)]
    while waiting:
        folder, levels = waiting.pop()
        with os.scandir(folder) as opened:
            entries = list(opened)
        for entry in entries:
            if entry.name in METADATA and entry.is_file():
                _check_entry(entry, store, root)
                yield Path(entry.path)
                levels = _chunk_levels(Path(entry.path)) if levels is None else levels
        for entry in entries:
            _check_entry(entry, store, root)
            if entry.is_dir():
                if levels == 0:  # zarr takes it for a chunk that is absent, all of whose values are 0
                    raise _rejected(store, entry.path, "is a directory that replaces a chunk of an array")
                if not entry.is_symlink():
                    waiting.append((entry.path, None if levels is None else levels - 1))


def _check_entry(entry: os.DirEntry[str], store: Path, root: str) -> None:
    """Raise a DataError if a member of a zarr store has its content outside the store."""
    if entry.is_symlink():
        target = os.path.realpath(entry.path)
        if os.path.commonpath([root, target]) != root or not os.path.exists(target):
            raise _rejected(store, entry.path, f"is a link that leads out of the store, to {target}")
    if not (entry.is_dir() or entry.is_file()):
        raise _rejected(store, entry.path, f"is {_special_kind(Path(entry.path))}, not a file")


def _chunk_levels(file: Path) -> int | None:
    """Return the levels of directories between an array's metadata and its chunks; None if it is not an array."""
    metadata = json.loads(file.read_bytes())
    if not isinstance(metadata, dict) or not isinstance(shape := metadata.get("shape"), list):
        return None
    encoding = metadata.get("chunk_key_encoding") or {"name": "v2"}
    separator = metadata.get("dimension_separator") or (encoding.get("configuration") or {}).get("separator")
    default = encoding.get("name") == "default"  # it puts all chunks into a directory c
    if (separator or ("/" if default else ".")) != "/":
        return 0
    return len(shape) if default else max(len(shape) - 1, 0)


def _is_hard(group: Any, name: bytes, shown: str | Path, place: str) -> bool:
    """Return whether a link is hard, or soft; raise a DataError if it is of another class."""
    from h5py import h5l

    kind = group.links.get_info(name).type
    if kind == h5l.TYPE_EXTERNAL:
        other, target = (part.decode(errors="replace") for part in group.links.get_val(name))
        raise _rejected(shown, place, f"is a link to {target!r} in another file, {other!r}")
    if kind not in (h5l.TYPE_HARD, h5l.TYPE_SOFT):
        raise _rejected(shown, place, f"is a link of a user-defined class ({kind}), which may lead to another file")
    return bool(kind == h5l.TYPE_HARD)


def _check_dataset(item: Any, shown: str | Path, place: str) -> None:
    """Raise a DataError if the values of a data set are stored in other files."""
    from h5py import h5d

    layout = item.get_create_plist()
    if layout.get_layout() == h5d.VIRTUAL:
        raise _rejected(shown, place, "is a virtual data set, whose values are in other data sets or files")
    if layout.get_external_count():
        other = layout.get_external(0)[0].decode(errors="replace")
        raise _rejected(shown, place, f"has its values in another file, {other!r} (external storage)")


def _references(item: Any) -> list[Any]:
    """Return the references in an object's attributes; anndata 0.7 finds a column's categories by one."""
    import h5py
    from h5py import h5a, h5d, h5g, h5t

    if not isinstance(item, h5g.GroupID | h5d.DatasetID):
        return []
    found = []
    for number in range(h5a.get_num_attrs(item)):
        attribute = h5a.open(item, index=number)
        if attribute.get_type().get_class() == h5t.REFERENCE:
            values = h5py.Dataset(item) if isinstance(item, h5d.DatasetID) else h5py.Group(item)
            value = values.attrs[attribute.name.decode()]
            found += [one for one in (value.ravel() if hasattr(value, "ravel") else [value]) if one]
    return found


def _special_kind(path: Path) -> str:
    """Return the kind of a path that is neither a file nor a directory, such as "a socket"; "" for these two."""
    mode = path.stat().st_mode
    kinds = {stat.S_ISFIFO: "a named pipe", stat.S_ISSOCK: "a socket", stat.S_ISCHR: "a device"}
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return ""
    return next((kind for check, kind in kinds.items() if check(mode)), "a device")


def _rejected(shown: str | Path, place: str, problem: str) -> DataError:
    return DataError(f"{shown}: {place} {problem}. {REMEDY}")
