"""Images in an .npz file."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vaekit.data.images.image_directory import natural
from vaekit.exceptions import DataError

# names of the arrays of a split and of their labels; MedMNIST has the last form
FORMS = (("x_{}", "y_{}"), ("{}", "{}_labels"), ("{}_images", "{}_labels"))
SPLIT_NAMES = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
MAX_BYTES = 2**32  # of all arrays of an .npz file together: some kilobytes of it can be inflated to terabytes


def read_npz(path: Path) -> tuple[np.ndarray, np.ndarray, list[str], tuple[int, int, int] | None]:
    """Load the images of an .npz file, and their labels if it has any.

    The images are ``images``, or those of a split: ``x_train``, ``x_val`` and ``x_test``, or ``train``, ``val`` and
    ``test``, or ``train_images``, ``val_images`` and ``test_images`` (MedMNIST). They are ``[images, height, width]``
    or with channels before or after these: bytes, booleans, or numbers in 0..1, which are rounded to 255ths. All arrays
    have the same scale: integers that are nowhere above 1 are zeros and ones. The labels are ``labels``, or
    ``y_train``, ..., or ``train_labels``, ...: one per image.

    Returns
    -------
    pixels
        uint8 ``[images, channels, height, width]``, from 0 to 255: training, validation, then test images.
    label
        int64 ``[images]``, -1 without labels.
    categories
        Names of the classes.
    official
        Number of training, validation and test images; None for one array.

    Raises
    ------
    DataError
        If the file cannot be read, is larger than 4 GiB once inflated, holds objects, has other names or several of
        these forms, or its arrays have other shapes or values.
    """
    try:
        _check_archive(path)
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise whatever the foreign content leads to
        raise DataError(f"{path} cannot be read as an .npz file ({type(error).__name__}: {error})") from error
    names = _image_arrays(arrays, path)
    parts = [channels_first(arrays[image], Path(f"{path}, {image}")) for image, _ in names.values()]
    if len({part.shape[1:] for part in parts}) > 1:
        listed = " and ".join(f"{name} {list(arrays[name].shape[1:])}" for name, _ in names.values())
        raise DataError(f"{path}: {listed} hold images of different shapes")
    pixels = np.concatenate(
        _as_bytes({name: part for (name, _), part in zip(names.values(), parts, strict=True)}, path)
    )
    sizes = dict(zip(names, map(len, parts), strict=True))
    official = None if "all" in names else (sizes["train"], sizes.get("val", 0), sizes.get("test", 0))
    given = [_labels(arrays.get(label), image, len(arrays[image]), path) for image, label in names.values()]
    known = np.repeat([labels is not None for labels in given], list(sizes.values()))
    label = np.full(len(pixels), -1)
    if not known.any():
        return pixels, label, [], official
    found, codes = np.unique(np.concatenate([part for part in given if part is not None]), return_inverse=True)
    categories = sorted(map(str, found), key=natural)
    label[known] = np.array([categories.index(str(name)) for name in found])[codes]
    return pixels, label, categories, official


def _image_arrays(arrays: Mapping[str, np.ndarray], path: Path) -> dict[str, tuple[str, str]]:
    """Return the names of the images and of their labels by split, in order; the split of one array is 'all'."""
    candidates = [{"all": ("images", "labels")}] if "images" in arrays else []
    for images, labels in FORMS:
        found = [
            (split, (images.format(name), labels.format(name)))
            for split, names in SPLIT_NAMES.items()
            for name in names
            if images.format(name) in arrays
        ]
        if len(dict(found)) < len(found):
            raise DataError(f"{path} holds {' and '.join(image for _, (image, _) in found)}, two of one split")
        if found:
            candidates.append(dict(found))
    if len(candidates) == 1 and not {"all", "train"}.isdisjoint(candidates[0]):
        return candidates[0]
    several = "; these are images under several names, and one form of names is needed" if len(candidates) > 1 else ""
    raise DataError(
        f"{path} holds {', '.join(arrays) or 'nothing'}{several}; images are looked for as 'images', or by split as "
        "'x_train' and 'x_test', 'train' and 'test', or 'train_images', 'val_images' and 'test_images'"
    )


def _labels(labels: np.ndarray | None, image: str, count: int, path: Path) -> np.ndarray | None:
    """Return one label per image, or None without labels."""
    if labels is None:
        return None
    if labels.ndim != 1 and labels.shape != (count, 1):
        raise DataError(
            f"{path}: the labels of {image} have the shape {list(labels.shape)}; one label per image is needed, or none"
        )
    if len(labels) != count:
        raise DataError(f"{path}: {count} images and {len(labels)} labels do not match ({image})")
    labels = labels.reshape(-1)
    if labels.dtype.kind == "S":
        return np.char.decode(labels)
    if labels.dtype.kind not in "biuUf" or (labels.dtype.kind == "f" and not (labels == np.round(labels)).all()):
        raise DataError(f"{path}: the labels of {image} are {labels.dtype}; whole numbers or strings are needed")
    return labels.astype(np.int64) if labels.dtype.kind == "f" else labels


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
        names = [member.filename for member in members]
        if len(set(names)) < len(names):
            raise DataError(f"{path}: holds {max(names, key=names.count)} more than once")
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
    before, after = (pixels.ndim == 4 and pixels.shape[axis] in (1, 3) for axis in (1, -1))
    if before and after:
        raise DataError(
            f"{path}: images of the shape {list(pixels.shape)} may have their channels before or after height and "
            "width; [images, height, width] without channels is clear"
        )
    if after:
        return np.ascontiguousarray(np.moveaxis(pixels, -1, 1))
    if before:
        return pixels
    raise DataError(
        f"{path}: images have the shape {list(pixels.shape)}; [images, height, width] is needed, with 1 or 3 channels "
        "before or after these"
    )


def _as_bytes(parts: Mapping[str, np.ndarray], path: Path) -> list[np.ndarray]:
    """Return levels from 0 to 255 as uint8, on one scale for all arrays."""
    first = next(iter(parts))
    for name, part in parts.items():
        kind, kinds = part.dtype.kind, {part.dtype.kind, parts[first].dtype.kind}
        if kind not in "bfiu":
            raise DataError(f"{path}, {name}: images are {part.dtype}, bytes or numbers in 0..1 are needed")
        if len(kinds) > 1 and kinds != {"i", "u"}:
            raise DataError(
                f"{path}: {first} are {parts[first].dtype} and {name} {part.dtype}; one type and scale is needed"
            )
        if part.size and not 0 <= part.min() <= part.max() <= (1 if kind == "f" else 255):
            raise DataError(
                f"{path}, {name}: values go from {part.min():g} to {part.max():g}; bytes or numbers in 0..1 are "
                "needed: divide them by the level of white"
            )
    if max(part.max(initial=0) for part in parts.values()) > 1:
        return [part.astype(np.uint8) for part in parts.values()]
    return [(part * 255.0).round().astype(np.uint8) for part in parts.values()]
