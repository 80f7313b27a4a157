"""One image file as gray or RGB levels of 8 bits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit.exceptions import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")  # Pillow would run Ghostscript on PostScript named .png
BITS_PER_SAMPLE, PHOTOMETRIC, PLANES, SAMPLE_FORMAT = 258, 262, 284, 339  # tags of TIFF
WHITE_IS_ZERO, SEPARATE, SIGNED = 0, 2, 2  # values of these
DEEP = ("I", "F")  # modes of Pillow with more than 8 bits: I, I;16, I;16B, F


def decode_image(path: Path) -> Image:
    """Return an image file as an upright image of mode "L" or "RGB", with black as 0 and white as 255.

    Levels of 12 and 16 bits and float levels in 0..1 are rounded to 255ths, palettes are looked up, other color spaces
    are converted, and the EXIF orientation is applied. Gamma and color profiles are ignored. A palette of grays gives a
    gray image.

    Raises
    ------
    DataError
        If the file cannot be read, holds several frames or transparent pixels, or the level of white is unknown, as for
        signed or 32-bit integers and for floats outside 0..1.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        # Given a path, Pillow maps TIFF files into memory, and confuses the sides of rotated ones.
        with path.open("rb") as file, Image.open(file, formats=FORMATS) as opened:
            problem = _find_problem(opened)
            if problem is None:
                opened.load()  # before exif_transpose: loading rotates TIFF files and drops their orientation
                upright = ImageOps.exif_transpose(opened)
                if not upright.mode.startswith(DEEP):
                    gray = upright.mode in ("1", "L", "LA") or (upright.mode == "P" and _is_gray(upright))
                    return upright.convert("L" if gray else "RGB")
                levels = np.asarray(upright) / _white_level(opened)
                if 0 <= levels.min() <= levels.max() <= 1:
                    return Image.fromarray((levels * 255).round().astype(np.uint8))
                problem = f"has levels from {levels.min():g} to {levels.max():g} times white. Scale them to 0..1"
    except UnidentifiedImageError as error:
        raise DataError(
            f"{path} cannot be read as an image ({', '.join(FORMATS)}, in the forms that Pillow supports). Save it as "
            "PNG with 8 or 16 bits."
        ) from error
    except Exception as error:  # Pillow raises errors of any type on foreign content, also for too many pixels
        raise DataError(f"{path} cannot be read as an image ({type(error).__name__}: {error}).") from error
    raise DataError(f"{path} {problem}.")


def _find_problem(opened: Image) -> str | None:
    """Return the problem of a file with ambiguous levels, and the remedy; None if the levels are clear."""
    if opened.format != "MPO" and getattr(opened, "n_frames", 1) > 1:  # MPO holds a photograph, then previews of it
        return f"holds {getattr(opened, 'n_frames', 1)} frames. Save each one as a separate file"
    deep, tags = opened.mode.startswith(DEEP), _tags(opened)
    key = opened.info.get("transparency")
    deep_key = isinstance(key, tuple) and max(key) > 255  # Pillow would compare it with levels of 8 bits
    if opened.has_transparency_data and (
        deep or deep_key or opened.convert("RGBA").getchannel("A").getextrema()[0] != 255
    ):
        return "has transparent pixels, which depend on their background. Save it without transparency"
    if opened.mode == "CMYK" and opened.format == "JPEG" and "adobe" not in opened.info:
        return "is in CMYK without a marker for ink or paper as 0. Save it in RGB"
    if deep and tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        return "has deep levels with 0 as white. Save it with 0 as black"
    if tags.get(PLANES) == SEPARATE and max(tags.get(BITS_PER_SAMPLE, (1,))) > 8 and opened.mode != "I;16":
        return "has a separate plane for each color, with more than 8 bits. Save it with the colors of a pixel together"
    if (opened.mode == "I" and opened.format != "PNG") or SIGNED in tags.get(SAMPLE_FORMAT, ()):
        return "has signed or 32-bit levels, whose white is unknown. Save it with 8 or 16 bits"
    return None


def _white_level(opened: Image) -> float:
    """Return the level of white of a file with more than 8 bits."""
    return 1.0 if opened.mode == "F" else 2.0 ** _tags(opened).get(BITS_PER_SAMPLE, (16,))[0] - 1


def _is_gray(image: Image) -> bool:
    """Return whether a palette has only grays."""
    red, green, blue = image.convert("RGB").split()
    return red == green == blue


def _tags(opened: Image) -> Mapping[int, Any]:
    return getattr(opened, "tag_v2", {})
