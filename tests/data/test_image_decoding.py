"""Image files of every depth, mode and orientation: their levels as the file means them, or an error with its name."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from vaekit.data.images.image_decoding import decode_image
from vaekit.exceptions import DataError

RAMP = np.linspace(0, 1, 48).reshape(6, 8)  # tops and sides differ: a turn shows
DEEP = (RAMP * 65535).round().astype(np.uint16)
BYTES = (RAMP * 255).round().astype(np.uint8)
COLOR = np.stack([BYTES, 255 - BYTES, np.full_like(BYTES, 50)], -1)
TURNED = 6  # EXIF: a quarter turn clockwise


def saved(path, picture, **options):
    picture.save(path, **options)
    return path


def big_endian(path):
    """Write a TIFF file of 16 bits in the order of bytes that Pillow does not write."""
    levels = DEEP.astype(">u2").tobytes()
    tags = [(256, 8), (257, 6), (258, 16), (259, 1), (262, 1), (273, 8), (277, 1), (278, 6), (279, len(levels))]
    entries = b"".join(
        tag.to_bytes(2, "big") + (4).to_bytes(2, "big") + (1).to_bytes(4, "big") + value.to_bytes(4, "big")
        for tag, value in tags
    )
    head = b"MM\x00\x2a" + (8 + len(levels)).to_bytes(4, "big")
    path.write_bytes(head + levels + len(tags).to_bytes(2, "big") + entries + bytes(4))
    return path


def twelve_bits(path):
    """Write a TIFF file of 12 bits, two levels in three bytes."""
    levels = (RAMP * 4095).round().astype(int).ravel().tolist()
    body = b"".join(((a << 12) | b).to_bytes(3, "big") for a, b in zip(levels[::2], levels[1::2], strict=True))
    tags = [(256, 8), (257, 6), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 6), (279, len(body))]
    entries = b"".join(
        tag.to_bytes(2, "little") + (4).to_bytes(2, "little") + (1).to_bytes(4, "little") + value.to_bytes(4, "little")
        for tag, value in tags
    )
    head = b"II\x2a\x00" + (8 + len(body)).to_bytes(4, "little")
    path.write_bytes(head + body + len(tags).to_bytes(2, "little") + entries + bytes(4))
    return path


def planes(path):
    """Write a TIFF file of 16 bits with its three colors one after another; Pillow reads it, and wrongly."""
    start, size = 14, DEEP.nbytes
    tags = [(256, 1, 8), (257, 1, 6), (258, 3, 8), (259, 1, 1), (262, 1, 2), (273, 3, start + 3 * size), (277, 1, 3),
            (278, 1, 6), (279, 3, start + 3 * size + 12), (284, 1, 2)]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4 if count == 1 or tag != 258 else 3, count, value)
                       for tag, count, value in tags)  # fmt: skip
    places = struct.pack("<6I", *(start + i * size for i in range(3)), *[size] * 3)
    head = b"II\x2a\x00" + struct.pack("<IHHH", start + 3 * size + len(places), 16, 16, 16)
    body = DEEP.astype("<u2").tobytes() * 3 + places
    path.write_bytes(head + body + struct.pack("<H", len(tags)) + entries + bytes(4))
    return path


def opaque(array):
    return Image.fromarray(np.dstack([array, np.full(array.shape[:2], 255, np.uint8)]))


@pytest.mark.parametrize(
    "write",
    [
        lambda p: saved(p / "a.png", Image.fromarray(DEEP)),
        lambda p: saved(p / "a.tif", Image.fromarray(DEEP)),
        lambda p: saved(p / "a.tiff", Image.fromarray(DEEP), compression="tiff_lzw"),
        lambda p: big_endian(p / "a.tif"),
        lambda p: twelve_bits(p / "a.tif"),
        lambda p: saved(p / "a.tif", Image.fromarray(RAMP.astype(np.float32))),
        lambda p: saved(p / "a.png", Image.fromarray(BYTES)),
        lambda p: saved(p / "a.bmp", Image.fromarray(BYTES)),
        lambda p: saved(p / "a.png", opaque(BYTES)),
        lambda p: saved(p / "a.gif", Image.fromarray(BYTES)),
        lambda p: saved(p / "a.png", Image.fromarray(BYTES).convert("P")),
        lambda p: saved(p / "wrong-suffix.png", Image.fromarray(BYTES), format="TIFF"),
    ],
)
def test_gray_levels_of_every_depth(tmp_path, write):
    picture = decode_image(write(tmp_path))
    assert picture.mode == "L"
    np.testing.assert_allclose(np.asarray(picture), 255 * RAMP, atol=0.51)


@pytest.mark.parametrize(
    "write",
    [
        lambda p: saved(p / "a.png", Image.fromarray(COLOR)),
        lambda p: saved(p / "a.png", Image.fromarray(COLOR).quantize(48, dither=Image.Dither.NONE)),
        lambda p: saved(p / "a.gif", Image.fromarray(COLOR).quantize(48, dither=Image.Dither.NONE)),
        lambda p: saved(p / "a.png", opaque(COLOR)),
        lambda p: saved(p / "a.webp", Image.fromarray(COLOR), lossless=True),
        lambda p: saved(p / "a.tif", Image.fromarray(COLOR).convert("CMYK")),
        lambda p: saved(p / "a.jpg", Image.fromarray(COLOR).convert("CMYK"), quality=100, subsampling=0),
        lambda p: saved(p / "a.jpg", Image.fromarray(COLOR), quality=100, subsampling=0),
        lambda p: saved(p / "a.tif", Image.fromarray(COLOR).convert("YCbCr")),
    ],
)
def test_colors_of_every_mode(tmp_path, write):
    picture = decode_image(write(tmp_path))
    assert picture.mode == "RGB"
    np.testing.assert_allclose(np.asarray(picture), COLOR.astype(float), atol=5)


def test_colors_of_sixteen_bits(tmp_path):
    """A PNG file, written by hand: Pillow reads it and does not write it."""
    deep = np.stack([DEEP, 65535 - DEEP, np.full_like(DEEP, 12850)], -1)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 8, 6, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    np.testing.assert_allclose(np.asarray(decode_image(tmp_path / "a.png")), COLOR.astype(float), atol=1)


def test_one_bit(tmp_path):
    path = saved(tmp_path / "a.tif", Image.fromarray(BYTES).point(lambda level: 255 * (level > 99), "1"))
    np.testing.assert_array_equal(np.asarray(decode_image(path)), 255 * (BYTES > 99))


@pytest.mark.parametrize(
    ("name", "array"),
    [("a.jpg", BYTES), ("a.png", BYTES), ("a.png", DEEP), ("a.tif", BYTES), ("a.tif", DEEP), ("a.webp", COLOR)],
)
def test_upright(tmp_path, name, array):
    exif = Image.Exif()
    exif[0x112] = TURNED
    picture = decode_image(saved(tmp_path / name, Image.fromarray(array), exif=exif))
    right = np.rot90(COLOR if array.ndim == 3 else BYTES, -1)
    assert picture.size == (6, 8)
    np.testing.assert_allclose(np.asarray(picture).astype(float), right, atol=40 if name == "a.webp" else 8)


def transparent(mode):
    alpha = Image.fromarray(np.where(BYTES > 99, 255, 0).astype(np.uint8))
    picture = Image.fromarray(COLOR if mode == "RGBA" else BYTES)
    picture.putalpha(alpha)
    return picture


def palette_with_transparency():
    picture = Image.fromarray(COLOR).quantize(16)
    picture.info["transparency"] = 3
    return picture


def animation(path, **options):
    frames = [Image.fromarray(np.roll(COLOR, i, 0)) for i in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    return path


def unmarked_cmyk(path):
    """Cut Adobe's marker out of a JPEG file in CMYK."""
    Image.fromarray(COLOR).convert("CMYK").save(path)
    content = path.read_bytes()
    start = content.index(b"\xff\xee")
    length = int.from_bytes(content[start + 2 : start + 4], "big")
    path.write_bytes(content[:start] + content[start + 2 + length :])
    return path


def truncated(path, picture, part=0.6, **options):
    picture.save(path, **options)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    return path


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda p: saved(p / "a.png", transparent("LA")), "transparent pixels"),
        (lambda p: saved(p / "a.png", transparent("RGBA")), "transparent pixels"),
        (lambda p: saved(p / "a.webp", transparent("RGBA"), lossless=True), "transparent pixels"),
        (lambda p: saved(p / "a.tif", transparent("RGBA")), "transparent pixels"),
        (lambda p: saved(p / "a.png", palette_with_transparency()), "transparent pixels"),
        (lambda p: saved(p / "a.gif", palette_with_transparency()), "transparent pixels"),
        (lambda p: saved(p / "a.png", Image.fromarray(BYTES), transparency=int(BYTES[2, 2])), "transparent pixels"),
        (lambda p: saved(p / "a.tif", Image.fromarray(DEEP.astype(np.int32))), "signed or 32-bit levels"),
        (lambda p: saved(p / "a.tif", Image.fromarray((300 * RAMP).astype(np.float32))), "from 0 to 300 times white"),
        (lambda p: saved(p / "a.tif", Image.fromarray((RAMP - 0.5).astype(np.float32))), "from -0.5 to 0.5"),
        (lambda p: saved(p / "a.tif", Image.fromarray(np.full((6, 8), np.nan, np.float32))), "from nan to nan"),
        (lambda p: saved(p / "a.tif", Image.fromarray(DEEP), tiffinfo={262: 0}), "0 as white"),
        (lambda p: saved(p / "a.tif", Image.fromarray(BYTES), tiffinfo={339: 2}), "signed or 32-bit levels"),
        (lambda p: planes(p / "a.tif"), "a separate plane for each color"),
        (lambda p: animation(p / "a.gif"), "holds 3 frames"),
        (lambda p: animation(p / "a.tif"), "holds 3 frames"),
        (lambda p: animation(p / "a.png"), "holds 3 frames"),
        (lambda p: animation(p / "a.webp"), "holds 3 frames"),
        (lambda p: unmarked_cmyk(p / "a.jpg"), "is in CMYK"),
        (lambda p: saved(p / "a.png", Image.fromarray(COLOR), format="EPS"), "cannot be read as an image"),
        *[
            (lambda p, name=name, part=part: truncated(p / name, Image.fromarray(COLOR), part), "cannot be read as a")
            for name in ("a.png", "a.jpg", "a.tif", "a.bmp", "a.gif", "a.webp")
            for part in (0.0, 0.6)
        ],
    ],
)
def test_what_has_no_certain_meaning_is_rejected_by_name(tmp_path, write, message):
    path = write(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        decode_image(path)
    assert str(path) in str(caught.value)
