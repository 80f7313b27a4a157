"""A user's own images: a folder of pictures, or an .npz file."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vaekit.exceptions import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
# names under which an .npz file has its training and its test images, with the names of their labels
ARRAYS = ((("images", "labels"),), (("x_train", "y_train"), ("x_test", "y_test")), (("train", "train_labels"),
          ("test", "test_labels")))  # fmt: skip
MAX_BYTES = 2**32  # of all arrays of an .npz file together: some kilobytes of it can be inflated to terabytes


def read_pictures(folder: Path, size: int | None) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Read all pictures of a folder; where they lie in folders of their own, these are their classes.

    Parameters
    ----------
    folder
        With pictures (.png, .jpg, .bmp, .gif, .tif, .webp) in it, or in one folder for each class.
    size
        Side to which they are scaled and cropped about the middle; None: as they are, all of one size.

    Returns
    -------
    pixels
        uint8 ``[pictures, channels, height, width]``; one channel if all are grey, else three.
    label
        int64 ``[pictures]``, -1 without classes.
    categories
        Names of the classes.

    Raises
    ------
    DataError
        If there are no pictures, some lie in folders and some do not, one cannot be read, or their sizes differ.
    """
    from PIL import Image, ImageOps
    from tqdm.auto import tqdm

    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(f"{folder} has no pictures ({', '.join(SUFFIXES)}), not in folders below it either")
    parents = [path.relative_to(folder).parts[0] if path.parent != folder else None for path in files]
    named = [parent for parent in parents if parent is not None]
    if named and len(named) < len(files):
        loose = files[parents.index(None)].name
        raise DataError(
            f"{folder}: {len(named)} pictures lie in folders (classes) and {len(files) - len(named)} do not, such as "
            f"{loose}; put all into folders, or none"
        )
    categories = sorted(set(named))
    pictures: list[Image.Image] = []
    for path in tqdm(files, desc="reading pictures", unit="picture", disable=len(files) < 2000, mininterval=1):
        try:
            with Image.open(path) as opened:
                picture = opened.convert("L" if opened.mode in ("1", "L", "LA") else "RGB")
        except Exception as error:  # Pillow raises whatever the foreign content leads to; too many pixels are one case
            raise DataError(f"{path} cannot be read as a picture ({type(error).__name__}: {error})") from error
        pictures.append(picture if size is None else ImageOps.fit(picture, (size, size)))
    _check_sizes(pictures, files)
    mode = "L" if all(picture.mode == "L" for picture in pictures) else "RGB"
    pixels = np.stack([np.asarray(picture.convert(mode)) for picture in pictures])
    codes = {name: code for code, name in enumerate(categories)}
    label = np.array([-1 if parent is None else codes[parent] for parent in parents], dtype=np.int64)
    return channels_first(pixels, folder), label, categories


def _check_sizes(pictures: list[Image], files: list[Path]) -> None:
    first = pictures[0].size
    for picture, path in zip(pictures, files, strict=True):
        if picture.size != first:
            raise DataError(
                f"{path} has {picture.size[0]} x {picture.size[1]} pixels and {files[0]} has {first[0]} x {first[1]}; "
                "give a size (data.size, such as 32) to which all are scaled"
            )


def read_npz(path: Path) -> tuple[np.ndarray, np.ndarray, list[str], int | None]:
    """Read images and, where there are any, labels of an .npz file.

    The images are ``images``, or ``x_train`` and ``x_test``, or ``train`` and ``test``: ``[images, height, width]`` or
    with channels before or after these, bytes, booleans, or numbers in 0..1, which are rounded to 255ths. Their labels
    are ``labels``, ``y_train`` and ``y_test``, or ``train_labels`` and ``test_labels``.

    Returns
    -------
    pixels
        uint8 ``[images, channels, height, width]``, from 0 to 255.
    label
        int64 ``[images]``, -1 without labels.
    categories
        Names of the classes.
    num_train
        Number of the first images that are for training, the others for the test; None for one array.

    Raises
    ------
    DataError
        If the file cannot be read, is larger than 4 GiB once inflated, holds objects, has other names, or its arrays
        have other shapes or values.
    """
    try:
        _check_archive(path)
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise whatever the foreign content leads to
        raise DataError(f"{path} cannot be read as an .npz file ({type(error).__name__}: {error})") from error
    names = next((group for group in ARRAYS if all(image in arrays for image, _ in group)), None)
    if names is None:
        raise DataError(
            f"{path} holds {', '.join(arrays) or 'nothing'}; images are looked for as 'images', as 'x_train' and "
            "'x_test', or as 'train' and 'test'"
        )
    parts = [_bytes(channels_first(arrays[image], path), f"{path}, {image}") for image, _ in names]
    if len({part.shape[1:] for part in parts}) > 1:
        raise DataError(f"{path}: {' and '.join(image for image, _ in names)} hold images of different shapes")
    given = [arrays[label] for _, label in names if label in arrays]
    pixels = np.concatenate(parts)
    num_train = len(parts[0]) if len(parts) > 1 else None
    if len(given) < len(names):
        return pixels, np.full(len(pixels), -1), [], num_train
    labels = np.concatenate([np.asarray(array).reshape(-1) for array in given])
    if len(labels) != len(pixels):
        raise DataError(f"{path}: {len(pixels)} images and {len(labels)} labels do not match")
    found, codes = np.unique(labels, return_inverse=True)
    return pixels, codes.astype(np.int64), [str(name) for name in found], num_train


def _check_archive(path: Path) -> None:
    """Check what the arrays of an .npz file say of themselves, before any of them is inflated.

    Raises
    ------
    DataError
        If they are larger than :data:`MAX_BYTES` together, one claims more values than the file has bytes for, or one
        holds objects, which only pickle could read.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        total = sum(member.file_size for member in members)
        if total > MAX_BYTES:
            raise DataError(
                f"{path}: its {len(members)} arrays take {total} bytes once inflated, and {path.stat().st_size} in the "
                f"file; at most {MAX_BYTES} (4 GiB) are read: give the images as a folder of pictures"
            )
        for member in members:
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(file)
            if dtype.hasobject:
                raise DataError(f"{path}, {member.filename}: holds Python objects (pickled), numbers are needed")
            if math.prod(shape) * dtype.itemsize > member.file_size:
                raise DataError(
                    f"{path}, {member.filename}: claims the shape {list(shape)} of {dtype}, and has "
                    f"{member.file_size} bytes"
                )


def channels_first(pixels: np.ndarray, path: Path) -> np.ndarray:
    """Return ``[images, channels, height, width]`` of images whose channels are missing, before or after the others.

    Raises
    ------
    DataError
        If the array has neither form.
    """
    if pixels.ndim == 3:
        return pixels[:, None]
    if pixels.ndim == 4 and pixels.shape[-1] in (1, 3):
        return np.ascontiguousarray(np.moveaxis(pixels, -1, 1))
    if pixels.ndim == 4 and pixels.shape[1] in (1, 3):
        return pixels
    raise DataError(
        f"{path}: images have the shape {list(pixels.shape)}; [images, height, width] is needed, with 1 or 3 channels "
        "before or after these"
    )


def _bytes(pixels: np.ndarray, where: str) -> np.ndarray:
    """Return grey levels from 0 to 255 as uint8."""
    if pixels.dtype == np.uint8:
        return pixels * np.uint8(255) if pixels.size and pixels.max() <= 1 else pixels
    if pixels.dtype.kind not in "bfiu":
        raise DataError(f"{where}: images are {pixels.dtype}, bytes or numbers in 0..1 are needed")
    low, high = (float(pixels.min()), float(pixels.max())) if pixels.size else (0.0, 0.0)
    if not 0 <= low <= high <= 255 or (high > 1 and pixels.dtype.kind == "f"):
        raise DataError(f"{where}: values go from {low:g} to {high:g}; bytes or numbers in 0..1 are needed")
    return (pixels * 255.0 if high <= 1 else pixels).round().astype(np.uint8)
