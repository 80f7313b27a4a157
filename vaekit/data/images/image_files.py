"""Images in an .npz file."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vaekit._core import memory_budget
from vaekit._core.natural_order import natural_order
from vaekit.exceptions import DataError, format_bytes

# Names of the arrays of a split and of their labels; MedMNIST has the last form.
FORMS = (("x_{}", "y_{}"), ("{}", "{}_labels"), ("{}_images", "{}_labels"))
SPLIT_NAMES = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}


def read_npz(path: Path) -> tuple[np.ndarray, np.ndarray, list[str], tuple[int, int, int] | None]:
    """Load the images of an .npz file, and their labels if it has any; returns as ``read_image_directory``.

    The images are ``images``, or those of a split: ``x_train``, ``x_val`` and ``x_test``, or ``train``, ``val`` and
    ``test``, or ``train_images``, ``val_images`` and ``test_images`` (MedMNIST). They are ``[images, height, width]``
    or have channels before or after these: bytes, booleans, or numbers in 0..1, which are rounded to 255ths. All arrays
    have the same scale: integers of at most 1 are zeros and ones. The labels are ``labels``, or ``y_train``, ..., or
    ``train_labels``, ...: one per image.
    """
    try:
        _check_archive(path)
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise errors of any type on foreign content
        raise DataError(f"{path} cannot be read as an .npz file ({type(error).__name__}: {error}).") from error
    names = _array_names(arrays, path)
    parts = {image: channels_first(arrays[image], f"{path}, {image}") for image, _ in names.values()}
    if len({part.shape[1:] for part in parts.values()}) > 1:
        shapes = " and ".join(f"{name} {list(arrays[name].shape[1:])}" for name in parts)
        raise DataError(f"{path}: {shapes} hold images of different shapes.")
    pixels = np.concatenate(_to_bytes(parts, path))
    sizes = {split: len(parts[image]) for split, (image, _) in names.items()}
    official = None if "all" in names else (sizes["train"], sizes.get("val", 0), sizes.get("test", 0))
    labels = [_read_labels(arrays.get(label), image, len(arrays[image]), path) for image, label in names.values()]
    labeled = np.repeat([part is not None for part in labels], list(sizes.values()))
    label = np.full(len(pixels), -1)
    if not labeled.any():
        return pixels, label, [], official
    values, codes = np.unique(np.concatenate([part for part in labels if part is not None]), return_inverse=True)
    categories = natural_order(map(str, values))
    label[labeled] = np.array([categories.index(str(name)) for name in values])[codes]
    return pixels, label, categories, official


def _array_names(arrays: Mapping[str, np.ndarray], path: Path) -> dict[str, tuple[str, str]]:
    """Return the names of the arrays of images and of their labels by split; one array has the split 'all'."""
    candidates = [{"all": ("images", "labels")}] if "images" in arrays else []
    for images, labels in FORMS:
        matches = [
            (split, (images.format(name), labels.format(name)))
            for split, names in SPLIT_NAMES.items()
            for name in names
            if images.format(name) in arrays
        ]
        if len(dict(matches)) < len(matches):
            raise DataError(f"{path} holds {' and '.join(image for _, (image, _) in matches)}, two for one split.")
        if matches:
            candidates.append(dict(matches))
    if len(candidates) == 1 and not {"all", "train"}.isdisjoint(candidates[0]):
        return candidates[0]
    problem = ", which follow several forms of names" if len(candidates) > 1 else ""
    raise DataError(
        f"{path} holds {', '.join(arrays) or 'no arrays'}{problem}. Name the images 'images', or by split 'x_train' "
        "and 'x_test', 'train' and 'test', or 'train_images', 'val_images' and 'test_images'."
    )


def _read_labels(labels: np.ndarray | None, image: str, num_images: int, path: Path) -> np.ndarray | None:
    """Return one label per image, or None without labels."""
    if labels is None:
        return None
    if labels.ndim != 1 and labels.shape != (num_images, 1):
        raise DataError(f"{path}: labels of {image} have shape {list(labels.shape)}, but must be one label per image.")
    if len(labels) != num_images:
        raise DataError(f"{path}: {num_images} images and {len(labels)} labels do not match ({image}).")
    labels = labels.reshape(-1)
    if labels.dtype.kind == "S":
        return np.char.decode(labels)
    if labels.dtype.kind not in "biuUf" or (labels.dtype.kind == "f" and not (labels == np.round(labels)).all()):
        raise DataError(f"{path}: labels of {image} have type {labels.dtype}, but must be integers or strings.")
    return labels.astype(np.int64) if labels.dtype.kind == "f" else labels


def _check_archive(path: Path) -> None:
    """Check the headers of the arrays of an .npz file before any of them is inflated.

    Together they must not exceed ``memory_budget.MAX_NPZ_BYTES``. None may claim more values than the file has bytes
    for, or hold objects, which only pickle could read.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        names = [member.filename for member in members]
        if len(set(names)) < len(names):
            raise DataError(f"{path} holds {max(names, key=names.count)} more than once.")
        total = sum(member.file_size for member in members)
        if total > memory_budget.MAX_NPZ_BYTES:
            raise DataError(
                f"{path}: its {len(members)} arrays inflate from {format_bytes(path.stat().st_size)} to {total} bytes, "
                f"more than {format_bytes(memory_budget.MAX_NPZ_BYTES)}. Pass the images as a directory of image files."
            )
        for member in members:
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                formats = np.lib.format
                parse = formats.read_array_header_1_0 if version == (1, 0) else formats.read_array_header_2_0
                shape, _, dtype = parse(file)
            if dtype.hasobject:
                raise DataError(f"{path}, {member.filename} holds Python objects (pickled), but must hold numbers.")
            if math.prod(shape) * dtype.itemsize > member.file_size:
                raise DataError(
                    f"{path}, {member.filename} claims the shape {list(shape)} of {dtype}, but has {member.file_size} "
                    "bytes."
                )


def channels_first(pixels: np.ndarray, where: str) -> np.ndarray:
    """Return images as ``[images, channels, height, width]``; their channels may be missing or last."""
    if pixels.ndim == 3:
        return pixels[:, None]
    first, last = (pixels.ndim == 4 and pixels.shape[axis] in (1, 3) for axis in (1, -1))
    if first and last:
        raise DataError(
            f"{where}: images of shape {list(pixels.shape)} may have channels before or after height and width. Pass "
            "[images, height, width] without channels."
        )
    if last:
        return np.ascontiguousarray(np.moveaxis(pixels, -1, 1))
    if first:
        return pixels
    raise DataError(
        f"{where}: images have shape {list(pixels.shape)}, but must be [images, height, width], with 1 or 3 channels "
        "before or after these."
    )


def _to_bytes(parts: Mapping[str, np.ndarray], path: Path) -> list[np.ndarray]:
    """Return levels from 0 to 255 as uint8, on one scale for all arrays."""
    first = next(iter(parts))
    for name, part in parts.items():
        kind, kinds = part.dtype.kind, {part.dtype.kind, parts[first].dtype.kind}
        if kind not in "bfiu":
            raise DataError(f"{path}, {name}: images have type {part.dtype}, but must be bytes or numbers in 0..1.")
        if len(kinds) > 1 and kinds != {"i", "u"}:
            raise DataError(
                f"{path}: {first} has type {parts[first].dtype} and {name} {part.dtype}, but need one type and scale."
            )
        if part.size and not 0 <= part.min() <= part.max() <= (1 if kind == "f" else 255):
            raise DataError(
                f"{path}, {name}: values from {part.min():g} to {part.max():g} must be bytes or numbers in 0..1. "
                "Divide them by the level of white."
            )
    if max(part.max(initial=0) for part in parts.values()) > 1:
        return [part.astype(np.uint8) for part in parts.values()]
    return [(part * 255.0).round().astype(np.uint8) for part in parts.values()]
