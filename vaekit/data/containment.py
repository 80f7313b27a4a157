"""Checks that a file or store has all its data inside it and runs no code, so that foreign files are safe to read.

HDF5 reads data sets of other files through external links, external storage and virtual data sets. A zarr store follows
symbolic links, and one of its codecs unpickles. Without these checks, data of other files could end up in an output
that the user passes on.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit.exceptions import DataError

if TYPE_CHECKING:
    import h5py

METADATA = (".zarray", ".zmetadata", "zarr.json")
REMEDY = (
    "It was not read. If you trust it, read it with anndata, check the result, and write it again with "
    "AnnData.write_h5ad or AnnData.write_zarr, which store all data in one place."
)
# Codecs of zarr and numcodecs that only decode numbers and text. "pickle" runs code of the store, and any installed
# package may register more.
SAFE_CODECS = {
    "adler32", "astype", "base64", "bitround", "blosc", "bytes", "bz2", "cast_value", "categorize", "crc32",
    "crc32c", "delta", "fixedscaleoffset", "fletcher32", "gzip", "jenkins_lookup3", "json2", "lz4", "lzma",
    "msgpack2", "packbits", "pcodec", "quantize", "scale_offset", "sharding_indexed", "shuffle", "transpose",
    "vlen-array", "vlen-bytes", "vlen-utf8", "zfpy", "zlib", "zstd",
}  # fmt: skip
CODEC_FIELDS = ("filters", "compressor", "codecs", "index_codecs", "storage_transformers")


def check_regular(path: Path, shown: str | Path) -> None:
    """Raise a DataError if a path, shown as ``shown``, is not a file or directory: reading a pipe would never end."""
    if kind := _special_kind(path):
        raise DataError(f"{shown} is {kind}, not a file. Copy its content to a file and pass the path of that file.")


def check_hdf5(file: h5py.File, shown: str | Path) -> None:
    """Raise a DataError if an object of an open HDF5 file has data outside this file.

    All links, data sets and references in attributes are followed, whether or not AnnData would read them, because
    commands copy whole files. No data are read: references inside data sets are never followed.
    """
    from h5py import h5d, h5g, h5o, h5r

    seen: set[int] = set()
    soft_links = []
    queue = [(h5o.open(file.id, b"/"), "")]
    while queue:
        item, name = queue.pop()
        info = h5o.get_info(item)
        if info.addr in seen:  # links may form cycles
            continue
        seen.add(info.addr)
        if isinstance(item, h5d.DatasetID):
            _check_dataset(item, shown, name)
        for reference in _references(item):
            with contextlib.suppress(KeyError, ValueError, RuntimeError, OSError):  # its target was deleted
                queue.append((h5r.dereference(reference, item), f"{name} (by reference)"))
        for key in item if isinstance(item, h5g.GroupID) else ():
            member = f"{name}/{key.decode(errors='replace')}"
            if _is_hard_link(item, key, shown, member):
                queue.append((h5o.open(item, key), member))
            else:
                soft_links.append((item, key, member))
    for group, key, name in soft_links:  # last: no external link remains that opening one could follow
        try:
            outside = h5o.get_info(h5o.open(group, key)).addr not in seen
        except (KeyError, RuntimeError, OSError):
            outside = True
        if outside:
            target = group.links.get_val(key).decode(errors="replace")
            raise _rejected(shown, name, f"is a link to {target!r}, which is not in the file")


def check_zarr(store: Path) -> None:
    """Raise a DataError if a zarr store has data outside it, or may run code; none of its arrays is opened.

    Links must not lead out of the store or to no file, members must be files and directories, no directory may replace
    a chunk, and metadata must be readable and name safe codecs only.
    """
    root = os.path.realpath(store)
    queue: list[tuple[str, int | None]] = [(str(store), None)]
    while queue:
        directory, levels = queue.pop()
        with os.scandir(directory) as scan:
            entries = list(scan)
        for entry in entries:
            _check_entry(entry, store, root)
            if entry.name in METADATA and entry.is_file():
                metadata = _read_metadata(Path(entry.path))
                levels = _chunk_levels(metadata) if levels is None else levels
        for entry in entries:
            if entry.is_dir():
                if levels == 0:  # zarr would read this chunk as absent, that is as zeros
                    raise _rejected(store, entry.path, "is a directory that replaces a chunk of an array")
                if not entry.is_symlink():
                    queue.append((entry.path, None if levels is None else levels - 1))


def check_files(directory: Path, names: Collection[str]) -> None:
    """Raise a DataError if one of the named files of a directory is a link that leads out of it, or not a file."""
    root = os.path.realpath(directory)
    with os.scandir(directory) as scan:
        for entry in scan:
            if entry.name in names:
                _check_entry(entry, directory, root)


def _check_entry(entry: os.DirEntry[str], store: Path, root: str) -> None:
    """Raise a DataError if a member of a directory has its content outside the directory."""
    if entry.is_symlink():
        target = os.path.realpath(entry.path)
        if not Path(target).is_relative_to(root) or not os.path.exists(target):
            raise _rejected(store, entry.path, f"is a link that leads out of the directory, to {target}")
    if not (entry.is_dir() or entry.is_file()):
        raise _rejected(store, entry.path, f"is {_special_kind(Path(entry.path))}, not a file")


def _read_metadata(file: Path) -> Any:
    """Return the content of a metadata file of zarr; its codecs are checked."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read as zarr metadata ({type(error).__name__}: {error}).") from error
    return parse_metadata(content, file)


def parse_metadata(content: bytes, shown: str | Path) -> Any:
    """Return the content of a metadata file of zarr, shown as ``shown``.

    Raises
    ------
    DataError
        If it cannot be read, or names codecs that may run code.
    """
    try:
        metadata = json.loads(content)
        codecs = sorted(set(_codec_names(metadata)))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{shown} cannot be read as zarr metadata ({type(error).__name__}: {error}).") from error
    for codec in codecs:
        if codec.removeprefix("numcodecs.") not in SAFE_CODECS:  # format 3 adds the prefix
            raise DataError(
                f"{shown} names the codec {codec!r}, which may run code of the store. It was not read. Write the store "
                "again with AnnData.write_zarr. If you trust it, read it with anndata."
            )
    return metadata


def _codec_names(value: Any, is_codec: bool = False) -> Iterator[str]:
    """Yield the names of codecs at any depth: consolidated metadata hold all arrays', and shards contain others."""
    if isinstance(value, list):
        for item in value:
            yield from _codec_names(item, is_codec)
    elif isinstance(value, str) and is_codec:
        yield value
    elif isinstance(value, dict):
        if is_codec:
            yield from (str(value[key]) for key in ("id", "name") if key in value)
        for key, item in value.items():
            if key != "attributes":  # free text, never decoded
                yield from _codec_names(item, key in CODEC_FIELDS)


def _chunk_levels(metadata: Any) -> int | None:
    """Return the number of directory levels between an array's metadata and its chunks; None if it is not an array."""
    if not isinstance(metadata, dict) or not isinstance(shape := metadata.get("shape"), list):
        return None
    encoding = metadata.get("chunk_key_encoding") or {"name": "v2"}
    separator = metadata.get("dimension_separator") or (encoding.get("configuration") or {}).get("separator")
    default = encoding.get("name") == "default"  # all chunks lie in a directory named c
    if (separator or ("/" if default else ".")) != "/":
        return 0
    return len(shape) if default else max(len(shape) - 1, 0)


def _is_hard_link(group: Any, key: bytes, shown: str | Path, name: str) -> bool:
    """Return whether a link is hard or soft. Raise a DataError for links of other classes."""
    from h5py import h5l

    kind = group.links.get_info(key).type
    if kind == h5l.TYPE_EXTERNAL:
        file, target = (part.decode(errors="replace") for part in group.links.get_val(key))
        raise _rejected(shown, name, f"is a link to {target!r} in another file, {file!r}")
    if kind not in (h5l.TYPE_HARD, h5l.TYPE_SOFT):
        raise _rejected(shown, name, f"is a link of a user-defined class ({kind}), which may lead to another file")
    return bool(kind == h5l.TYPE_HARD)


def _check_dataset(item: Any, shown: str | Path, name: str) -> None:
    """Raise a DataError if the values of a data set are stored in other files."""
    from h5py import h5d

    layout = item.get_create_plist()
    if layout.get_layout() == h5d.VIRTUAL:
        raise _rejected(shown, name, "is a virtual data set, whose values are in other data sets or files")
    if layout.get_external_count():
        file = layout.get_external(0)[0].decode(errors="replace")
        raise _rejected(shown, name, f"has its values in another file, {file!r} (external storage)")


def _references(item: Any) -> list[Any]:
    """Return the references in an object's attributes: anndata 0.7 stores the categories of a column behind one."""
    import h5py
    from h5py import h5a, h5d, h5g, h5t

    if not isinstance(item, h5g.GroupID | h5d.DatasetID):
        return []
    references = []
    for index in range(h5a.get_num_attrs(item)):
        attribute = h5a.open(item, index=index)
        if attribute.get_type().get_class() == h5t.REFERENCE:
            owner = h5py.Dataset(item) if isinstance(item, h5d.DatasetID) else h5py.Group(item)
            values = np.asarray(owner.attrs[attribute.name.decode()], dtype=object)
            references += [entry for entry in values.ravel() if entry]
    return references


def _special_kind(path: Path) -> str:
    """Return the kind of a path that is not a file or directory, such as "a socket"; "" for files and directories."""
    mode = path.stat().st_mode
    kinds = {stat.S_ISFIFO: "a named pipe", stat.S_ISSOCK: "a socket", stat.S_ISCHR: "a device"}
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return ""
    return next((kind for is_kind, kind in kinds.items() if is_kind(mode)), "a device")


def _rejected(shown: str | Path, name: str, problem: str) -> DataError:
    return DataError(f"{shown}: {name} {problem}. {REMEDY}")
