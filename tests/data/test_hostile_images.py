"""Image files from somebody else: bombs, and what only pickle could read."""

from __future__ import annotations

import copy
import gzip
import io
import os
import pickle
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from vaekit._core import memory_budget
from vaekit.data import ImageData
from vaekit.exceptions import DataError


def features(path: Path) -> int:
    return ImageData(path=str(path)).features


def array(shape: tuple[int, ...], body: bytes = b"", dtype: str = "|u1") -> bytes:
    """An array in numpy's format that claims a shape."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
    return file.getvalue() + body


def test_a_zip_bomb_is_refused_by_its_declared_size(tmp_path):
    """A hundred names for the same 64 MiB of zeros: 6.4 GiB in 64 kB."""
    path, size = tmp_path / "bomb.npz", 2**26
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", array((2**20, 8, 8), bytes(size)))
        for i in range(100):
            again = copy.copy(archive.filelist[0])
            again.filename = f"x{i}.npy"
            archive.filelist.append(again)
    assert path.stat().st_size < 100_000
    tracemalloc.start()
    with pytest.raises(
        DataError, match=r"bomb\.npz: its 101 arrays inflate from .* to 67\d{8} bytes, more than 4\.3 GB"
    ):
        features(path)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_a_shape_without_the_bytes(tmp_path):
    """A terabyte that numpy would allocate on the word of a header."""
    with zipfile.ZipFile(tmp_path / "liar.npz", "w") as archive:
        archive.writestr("images.npy", array((2**24, 256, 256)))
    with pytest.raises(DataError, match=r"liar\.npz, images\.npy claims the shape \[16777216, 256, 256\]"):
        features(tmp_path / "liar.npz")


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("where", ["images", "other", "raw pickle"])
def test_objects_are_not_unpickled(tmp_path, where):
    objects = np.array([Bomb(tmp_path / "exploded")] * 3, dtype=object)
    pixels = np.zeros((20, 8, 8), dtype=np.uint8)
    if where == "raw pickle":
        (tmp_path / "a.npz").write_bytes(pickle.dumps(objects))
    else:
        np.savez(tmp_path / "a.npz", **({"images": pixels} | {where: objects}))
    with pytest.raises(DataError, match=r"a\.npz"):
        features(tmp_path / "a.npz")
    assert not (tmp_path / "exploded").exists()


def test_damaged_archives(tmp_path):
    np.savez_compressed(tmp_path / "whole.npz", images=np.random.default_rng(0).integers(0, 255, (20, 8, 8), "uint8"))
    whole = (tmp_path / "whole.npz").read_bytes()
    assert features(tmp_path / "whole.npz") == 64
    generator, path = np.random.default_rng(1), tmp_path / "damaged.npz"
    for _ in range(150):
        damaged = bytearray(whole)
        for place in generator.integers(0, len(whole), 3):
            damaged[place] = generator.integers(0, 256)
        path.write_bytes(damaged[: generator.integers(1, len(whole) + 1)])
        try:
            assert features(path) > 0
        except DataError as error:
            assert "damaged.npz" in str(error)  # noqa: PT017


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


def test_a_picture_of_too_many_pixels(tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "a.png").write_bytes(png(200_000, 200_000))
    with pytest.raises(DataError, match=r"a\.png cannot be read as an image \(DecompressionBombError"):
        features(tmp_path / "own")


def test_a_gzip_bomb_among_the_files_of_mnist(tmp_path, monkeypatch):
    monkeypatch.setattr(memory_budget, "MAX_IDX_BYTES", 2**22)
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    with gzip.open(raw / "train-images-idx3-ubyte.gz", "wb") as file:
        file.write(bytes(2**24))
    with pytest.raises(DataError, match=r"ubyte\.gz cannot be inflated \(it holds more than 4\.2 MB"):
        _ = ImageData("mnist", root=str(tmp_path)).features
    assert [path.name for path in raw.iterdir()] == ["train-images-idx3-ubyte.gz"]


def test_the_limit_is_for_all_arrays_together(tmp_path, monkeypatch):
    monkeypatch.setattr(memory_budget, "MAX_NPZ_BYTES", 3000)
    np.savez(tmp_path / "a.npz", train=np.zeros((20, 8, 8), np.uint8), test=np.zeros((20, 8, 8), np.uint8))
    assert features(tmp_path / "a.npz") == 64
    monkeypatch.setattr(memory_budget, "MAX_NPZ_BYTES", 2000)
    with pytest.raises(DataError, match="more than 2\\.0 kB"):
        features(tmp_path / "a.npz")
