"""Allowed codecs of zarr stores: their metadata name codecs, and one of these unpickles."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vaekit.data.containment import check_zarr
from vaekit.exceptions import DataError

# Those of zarr and numcodecs that only decode numbers and text; "pickle" runs what it finds, and others may be added
# by any installed package.
ALLOWED = {
    "adler32", "astype", "base64", "bitround", "blosc", "bytes", "bz2", "cast_value", "categorize", "crc32",
    "crc32c", "delta", "fixedscaleoffset", "fletcher32", "gzip", "jenkins_lookup3", "json2", "lz4", "lzma",
    "msgpack2", "packbits", "pcodec", "quantize", "scale_offset", "sharding_indexed", "shuffle", "transpose",
    "vlen-array", "vlen-bytes", "vlen-utf8", "zfpy", "zlib", "zstd",
}  # fmt: skip
_FIELDS = ("filters", "compressor", "codecs", "index_codecs", "storage_transformers")


def check_codecs(store: Path) -> None:
    """Check that a zarr store holds all its data itself and names only codecs that are known to run nothing.

    No array is opened for it.

    Raises
    ------
    DataError
        If a link leads out of it (:func:`vaekit.data.containment.check_zarr`), it names another codec, or its metadata
        cannot be read.
    """
    for file in check_zarr(store):
        try:
            found = sorted(set(_codecs(json.loads(file.read_bytes()))))
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"{file} cannot be read as metadata of zarr ({type(error).__name__}: {error})") from error
        for codec in found:
            # zarr gives the codecs of numcodecs a prefix in its third format
            if codec.removeprefix("numcodecs.") not in ALLOWED:
                raise DataError(
                    f"{file} asks for the codec {codec!r}, which may run code of the store: it is not read. Write the "
                    "store again with AnnData.write_zarr, or trust it and read it with anndata yourself"
                )


def _codecs(value: Any, is_codec: bool = False) -> Iterator[str]:
    """Yield the names of codecs, however deep: consolidated metadata hold all arrays', a shard has its own."""
    if isinstance(value, list):
        for part in value:
            yield from _codecs(part, is_codec)
    elif isinstance(value, str) and is_codec:
        yield value
    elif isinstance(value, dict):
        if is_codec:
            yield from (str(value[key]) for key in ("id", "name") if key in value)
        for key, part in value.items():
            if key != "attributes":  # anybody's words, never decoded
                yield from _codecs(part, key in _FIELDS)
