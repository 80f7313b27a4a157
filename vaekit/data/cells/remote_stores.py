""".h5ad files and zarr stores at a URL, opened with the checks of local ones."""

from __future__ import annotations

import weakref
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm
from typing_extensions import override
from zarr.abc.store import RangeByteRequest
from zarr.storage import FsspecStore, WrapperStore

from vaekit._core.urls import RemoteURL
from vaekit.data.cells.remote_access import PACKAGES, MissingFileError, open_filesystem, request
from vaekit.data.cells.remote_file import RemoteFile
from vaekit.data.containment import METADATA, check_hdf5, parse_metadata
from vaekit.exceptions import DataError

if TYPE_CHECKING:
    from anndata import AnnData

SIGNATURE = b"\x89HDF\r\n\x1a\n"
_OTHER_FORMS = {".h5", ".hdf5", ".loom", ".h5mu", ".csv", ".tsv", ".tab", ".txt", ".gz", ".mtx", ".rds", ".zip", ".tar"}


def is_remote_zarr(url: RemoteURL) -> bool:
    """Return whether a URL belongs to a zarr store, by its name; without a known name, by its content.

    Raises
    ------
    DataError
        If it is neither an .h5ad file nor a zarr store, or cannot be read.
    """
    ending = PurePosixPath(url.name.lower()).suffix
    if ending in (".h5ad", ".zarr"):
        return ending == ".zarr"
    if ending in _OTHER_FORMS:
        raise DataError(
            f"{url} has the ending {ending}, but only .h5ad files and zarr stores are read from a URL. Download it, "
            "and pass the path of the file."
        )
    try:
        file = RemoteFile(url)
    except MissingFileError:  # a store is a directory
        return True
    if file.read(len(SIGNATURE)) != SIGNATURE:
        raise DataError(f"{url} is neither an .h5ad file nor a zarr store. Download it, and pass the path of the file.")
    return False


def open_remote(url: RemoteURL) -> Any:
    """Open an .h5ad file at a URL as an ``h5py.File``, or a zarr store as a ``zarr.Group``.

    Raises
    ------
    DataError
        If it cannot be read, has data outside it, or names codecs that may run code.
    """
    if is_remote_zarr(url):
        return _open_zarr(url)
    import h5py

    store = h5py.File(RemoteFile(url), "r")
    check_hdf5(store, url)
    return store


def read_remote_h5ad(url: RemoteURL) -> AnnData:
    """Read an .h5ad file at a URL, which :func:`open_remote` has checked, with a progress bar after one second."""
    import anndata

    with tqdm(desc=f"reading {url.name}", unit="B", unit_scale=True, delay=1) as bar:
        file = RemoteFile(url, bar)
        bar.total = file.size
        return anndata.io.read_h5ad(file)


def _open_zarr(url: RemoteURL) -> Any:
    import zarr

    if url.address.partition("://")[2] != url.partition("://")[2]:
        raise DataError(
            f"{url} is a zarr store, whose URL must not contain a user name, query or fragment: each of its files has "
            "another URL. Pass the URL without it."
        )
    filesystem = open_filesystem(url, asynchronous=True)
    path = url.rstrip("/") if PACKAGES[url.scheme] == "aiohttp" else filesystem._strip_protocol(url.rstrip("/"))
    store = CheckedStore(FsspecStore(filesystem, read_only=True, path=path), url)
    try:
        group = zarr.open_group(store, mode="r")
    except FileNotFoundError:
        raise DataError(f"{url} does not exist, or is not a zarr store. Check the URL.") from None
    finally:  # fsspec does not close sessions of another event loop than its own
        if session := getattr(filesystem, "_session", None) or getattr(filesystem, "_s3", None):
            weakref.finalize(filesystem, filesystem.close_session, None, session)
    if PACKAGES[url.scheme] == "aiohttp" and group.metadata.consolidated_metadata is None:
        raise DataError(
            f"{url} has no consolidated metadata, without which the members of a store on a web server cannot be "
            "listed. Write it again with AnnData.write_zarr, or call zarr.consolidate_metadata."
        )
    return group


class CheckedStore(WrapperStore[FsspecStore]):
    """Zarr store on a server whose metadata are checked when they are read, and whose requests are repeated."""

    def __init__(self, store: FsspecStore, url: RemoteURL | None = None) -> None:
        super().__init__(store)
        self.url = RemoteURL("") if url is None else url

    @override
    def _with_store(self, store: FsspecStore) -> CheckedStore:
        return CheckedStore(store, self.url)

    @override
    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        value = await request(self.url, lambda: self._store.get(key, prototype, byte_range))
        if value is None:
            return None
        if isinstance(byte_range, RangeByteRequest) and len(value) != byte_range.end - byte_range.start:
            raise DataError(
                f"{self.url}: the server does not support range requests, which a store with shards requires. Download "
                "the store, and pass its path."
            )
        if key.rpartition("/")[2] in METADATA:
            parse_metadata(value.to_bytes(), f"{self.url}/{key}")
        return value
