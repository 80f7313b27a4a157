"""Custom images: a directory of image files, with classes and splits as directories."""

from __future__ import annotations

import mimetypes
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vaekit._core.natural_order import natural_order
from vaekit.data.images.image_decoding import decode_image
from vaekit.data.splits import SPLITS
from vaekit.exceptions import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
SYSTEM_DIRECTORIES = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")
SPLIT_OF = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
    "testing": "test",
}  # fmt: skip
DARK_LEVEL = 32  # of 255; images that use all bits are brighter


def read_image_directory(
    root: Path, size: int | None
) -> tuple[np.ndarray, np.ndarray, list[str], tuple[int, int, int] | None]:
    """Load all images of a directory, whose directories are splits or classes.

    The images (.png, .jpg, .bmp, .gif, .tif, .webp) lie in the directory or in one directory per class; or in
    directories train, val and test (or training, valid, validation, testing) that hold these. Hidden files and those of
    the system (``.DS_Store``, ``__MACOSX``) are skipped. With a ``size``, images are scaled and cropped about the
    center to this side.

    Returns
    -------
    pixels : ndarray, shape (images, channels, height, width)
        Levels, uint8; one channel if all images are gray, else three.
    label : ndarray, shape (images,)
        Class of each image, int64, -1 without classes.
    categories : list of str
        Names of the classes.
    official : tuple of int or None
        Numbers of training, validation and test images, in this order; None without a split.
    """
    from PIL import ImageOps
    from tqdm.auto import tqdm

    files = find_images(root)
    if not files:
        raise DataError(f"{root} has no images ({', '.join(SUFFIXES)}), nor do the directories below it.")
    splits = _splits(root, files)
    if splits is not None:
        files = [path for split in SPLITS for path, own in zip(files, splits, strict=True) if own == split]
    classes = _classes(root, files, nested=splits is not None)
    images: list[Image] = []
    for path in tqdm(files, desc="reading images", unit="image", disable=len(files) < 2000, mininterval=1):
        image = decode_image(path)
        images.append(image if size is None else ImageOps.fit(image, (size, size)))
        if images[-1].size != images[0].size:
            raise DataError(
                f"{path} has {image.size[0]} x {image.size[1]} pixels, but {files[0]} has {images[0].size[0]} x "
                f"{images[0].size[1]}. Pass an image_size (data.image_size, such as 32) to which all are scaled."
            )
    mode = "L" if all(image.mode == "L" for image in images) else "RGB"
    pixels = np.stack([np.asarray(image.convert(mode)) for image in images])
    pixels = pixels[:, None] if mode == "L" else np.ascontiguousarray(np.moveaxis(pixels, -1, 1))
    if pixels.max() < DARK_LEVEL:
        warnings.warn(
            f"{root}: no image has a level above {pixels.max()} of 255 (white). Scale the levels first: masks of 0 and "
            "1 by 255, 16-bit files by the bits that they do not use.",
            UserWarning,
            stacklevel=2,
        )
    categories = natural_order({name for name in classes if name is not None})
    codes = {name: code for code, name in enumerate(categories)}
    label = np.array([-1 if name is None else codes[name] for name in classes], dtype=np.int64)
    official = None if splits is None else (splits.count("train"), splits.count("val"), splits.count("test"))
    return pixels, label, categories, official


def find_images(root: Path) -> list[Path]:
    """Return the image files below a directory in the order of their paths, without hidden and system ones."""

    def fail(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be read ({error.strerror}).") from error

    files, others = [], []
    inside = os.path.realpath(root)
    for parent, directories, names in os.walk(root, onerror=fail):
        directories[:] = [name for name in directories if not _is_skipped(name)]
        for path in (Path(parent, name) for name in directories):
            if path.is_symlink():
                raise DataError(f"{path} is a link to a directory. Put the directory itself there, or remove the link.")
        for path in (Path(parent, name) for name in names if not _is_skipped(name)):
            if path.suffix.lower() not in SUFFIXES:
                if (mimetypes.guess_type(path.name)[0] or "").startswith("image/"):
                    others.append(path)
                continue
            if not Path(os.path.realpath(path)).is_relative_to(inside):
                raise DataError(f"{path} is a link that leads out of {root}. Put the file itself there.")
            if not path.is_file():
                raise DataError(f"{path} is not a regular file (a broken link, named pipe or device). Remove it.")
            files.append(path)
    if others:
        warnings.warn(
            f"{root}: {len(others)} files, such as {min(others).name}, are images of other formats than "
            f"{', '.join(SUFFIXES)}; they are skipped.",
            UserWarning,
            stacklevel=3,
        )
    return sorted(files)


def _is_skipped(name: str) -> bool:
    return name.startswith(".") or name in SYSTEM_DIRECTORIES


def _splits(root: Path, files: list[Path]) -> list[str] | None:
    """Return the split of each file; None if no directory is named like a split."""
    parents = [path.relative_to(root).parts[:-1] for path in files]
    tops = sorted({parent[0] for parent in parents if parent})
    split = {name: SPLIT_OF[name.lower()] for name in tops if name.lower() in SPLIT_OF}
    if not split:
        if all(len(parent) > 1 for parent in parents):
            inner = sorted({parent[1] for parent in parents})
            if len(inner) > 1 and all(name.lower() in SPLIT_OF for name in inner):
                raise DataError(
                    f"{root}: {', '.join(inner)} are splits, but lie within {', '.join(tops[:5])}. Put the classes "
                    "into the splits, such as train/cat."
                )
            if len(tops) == 1:
                raise DataError(f"{root}: all images lie in directories of {tops[0]}. Pass {root / tops[0]} as path.")
        return None
    others = [f"{name}/" for name in tops if name not in split] + [path.name for path in files if path.parent == root]
    if others:
        raise DataError(
            f"{root}: the splits {', '.join(f'{name}/' for name in split)} must not be next to "
            f"{', '.join(others[:5])}. Put all images into train, val and test. If these are classes, rename the "
            "directories."
        )
    if len(set(split.values())) < len(split):
        raise DataError(f"{root}: {', '.join(split)} name one split twice. Put their images into one directory.")
    if "train" not in split.values():
        raise DataError(f"{root}: {', '.join(split)} need a directory train, too. If these are classes, rename them.")
    return [split[parent[0]] for parent in parents]


def _classes(root: Path, files: list[Path], nested: bool) -> list[str | None]:
    """Return the class of each file or None; ``nested`` means below the directory of a split."""
    classes: list[str | None] = []
    loose: dict[Path, Path] = {}
    by_base: dict[Path, set[str]] = {}
    for path in files:
        parents = path.relative_to(root).parts[:-1]
        base = root / parents[0] if nested else root
        name = parents[nested] if len(parents) > nested else None
        classes.append(name)
        if name is None:
            loose.setdefault(base, path)
        else:
            by_base.setdefault(base, set()).add(name)
    for base, names in by_base.items():
        if base in loose:
            num_loose = sum(path.parent == base for path in files)
            num_inner = sum(path.is_relative_to(base) for path in files) - num_loose
            raise DataError(
                f"{base}: {num_inner} images lie in directories (classes) and {num_loose} do not, such as "
                f"{loose[base].name}. Put all of them into directories, or none."
            )
        directories = {path.name for path in base.iterdir() if path.is_dir() and not _is_skipped(path.name)}
        if empty := sorted(directories - names):
            warnings.warn(
                f"{base}: {', '.join(empty)} without images ({', '.join(SUFFIXES)}), skipped.",
                UserWarning,
                stacklevel=3,
            )
    return classes
