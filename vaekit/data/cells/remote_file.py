"""A file on a server that is read by range requests, for h5py."""

from __future__ import annotations

import atexit
import contextlib
import gc
import io
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm
from typing_extensions import override

from vaekit._core.urls import RemoteURL
from vaekit.data.cells.remote_access import PACKAGES, open_filesystem, request
from vaekit.exceptions import DataError

BLOCK_BYTES = 2**18
MAX_REQUEST_BLOCKS = 32  # of one request
CACHED_BLOCKS = 256


class RemoteFile(io.RawIOBase):
    """File for reading that requests ranges of bytes, and keeps the blocks that were used last in memory.

    A request for blocks after those of the last request is twice as long as that one, up to a limit, so that long
    reads take few requests and scattered ones transfer little.

    Parameters
    ----------
    url : RemoteURL
        URL of the file.
    bar : tqdm, optional
        Progress bar that counts the bytes.

    Attributes
    ----------
    size : int
        Length in bytes.

    Raises
    ------
    DataError
        If it cannot be read, or the server does not support range requests.
    """

    def __init__(self, url: RemoteURL, bar: Any = None) -> None:
        super().__init__()
        self.url, self.bar = url, bar
        self._fs = open_filesystem(url)
        self._path = url.address if PACKAGES[url.scheme] == "aiohttp" else self._fs._strip_protocol(url.address)
        self.size = self._request(self._read_size)
        self._position, self._next_block, self._length = 0, -1, 1
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

    @override
    def readable(self) -> bool:
        return True

    @override
    def seekable(self) -> bool:
        return True

    @override
    def tell(self) -> int:
        return self._position

    @override
    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        self._position = origin + offset
        return self._position

    @override
    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        stop = min(self._position + len(view), self.size)
        count = 0
        while self._position < stop:
            block, offset = divmod(self._position, BLOCK_BYTES)
            content = self._block(block, (stop - 1) // BLOCK_BYTES)[offset : offset + stop - self._position]
            view[count : count + len(content)] = content
            count += len(content)
            self._position += len(content)
        return count

    def _block(self, number: int, last: int) -> bytes:
        """Return a block, from memory or by a request that also reads missing blocks up to ``last``."""
        if number in self._blocks:
            self._blocks.move_to_end(number)
            return self._blocks[number]
        self._length = min(2 * self._length, MAX_REQUEST_BLOCKS) if number == self._next_block else 1
        end = min(max(number + self._length, min(last + 1, number + MAX_REQUEST_BLOCKS)), self._num_blocks)
        end = next((other for other in range(number + 1, end) if other in self._blocks), end)
        content = self.fetch(number * BLOCK_BYTES, min(end * BLOCK_BYTES, self.size))
        for other in range(number, end):
            begin = (other - number) * BLOCK_BYTES
            self._blocks[other] = content[begin : begin + BLOCK_BYTES]
        self._next_block, self._length = end, max(self._length, end - number)
        while len(self._blocks) > CACHED_BLOCKS:
            self._blocks.popitem(last=False)
        return content[:BLOCK_BYTES]

    @property
    def _num_blocks(self) -> int:
        return -(-self.size // BLOCK_BYTES)

    def fetch(self, start: int, stop: int) -> bytes:
        """Return the bytes from ``start`` to ``stop`` by one request."""
        content = self._request(lambda: self._fs._cat_file(self._path, start=start, end=stop))
        if len(content) != stop - start:
            raise DataError(
                f"{self.url}: the server returned {len(content)} bytes instead of {stop - start}. The file has "
                "changed, or the server does not support range requests. Download the file, and pass its path."
            )
        if self.bar is not None:
            self.bar.update(len(content))
        return content

    def _request(self, operation: Any) -> Any:
        from fsspec.asyn import sync

        with _without_collection():
            return sync(self._fs.loop, request, self.url, operation)

    async def _read_size(self) -> int:
        """Return the length of the file, after a check that ranges can be requested."""
        if PACKAGES[self.url.scheme] != "aiohttp":
            return int((await self._fs._info(self._path))["size"])
        session = await self._fs.set_session()
        # A request for a byte, whose answer has the length. Servers of signed URLs reject HEAD.
        address = self._fs.encode_url(self._path)
        async with session.get(address, headers={"Range": "bytes=0-0", "Accept-Encoding": "identity"}) as answer:
            if answer.status == 416:  # an empty file
                return 0
            answer.raise_for_status()
            size = answer.headers.get("Content-Range", "").rpartition("/")[2]
        if answer.status != 206 or not size.isdigit():
            raise DataError(
                f"{self.url}: the server does not support range requests. Download the file, and pass its path."
            )
        return int(size)


def download(url: RemoteURL, target: Path) -> None:
    """Write the content of a URL to a file, with a progress bar after one second."""
    with tqdm(desc="downloading", unit="B", unit_scale=True, delay=1) as bar, target.open("wb") as writer:
        file = RemoteFile(url, bar)
        bar.total, step = file.size, MAX_REQUEST_BLOCKS * BLOCK_BYTES
        for start in range(0, file.size, step):
            writer.write(file.fetch(start, min(start + step, file.size)))


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Suspend garbage collection while a request runs in the thread of fsspec.

    h5py holds its global lock during the request. A collection in the other thread that frees an object of h5py would
    wait for this lock forever (documentation of h5py, "Python file-like objects").
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@atexit.register
def _close_files() -> None:
    """Close files of h5py that read a RemoteFile: HDF5 would call it after the end of the interpreter."""
    import sys

    if (h5py := sys.modules.get("h5py")) is None:
        return
    for identifier in h5py.h5f.get_obj_ids(types=h5py.h5f.OBJ_FILE):
        file = h5py.File(identifier)
        if file.driver == "fileobj":
            file.close()
