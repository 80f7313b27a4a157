"""A user's own images: a directory of image files, with classes and splits as directories."""

from __future__ import annotations

import mimetypes
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vaekit.data.images.image_decoding import decode_image
from vaekit.data.splits import SPLITS
from vaekit.exceptions import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
JUNK = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")  # not a user's directories
SPLIT_OF = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
    "testing": "test",
}  # fmt: skip
DARK = 32  # of 255; no image set that uses all its bits is darker


def read_image_directory(
    folder: Path, size: int | None
) -> tuple[np.ndarray, np.ndarray, list[str], tuple[int, int, int] | None]:
    """Load all images of a directory; directories in it are splits or classes.

    Hidden files and those that systems leave behind (``.DS_Store``, ``__MACOSX``) are skipped.

    Parameters
    ----------
    folder
        With images (.png, .jpg, .bmp, .gif, .tif, .webp) in it, or in one directory for each class; or with
        directories train, val and test (or training, valid, validation, testing) that hold these.
    size
        Side to which they are scaled and cropped about the middle; None: as they are, all of one size.

    Returns
    -------
    pixels
        uint8 ``[images, channels, height, width]``; one channel if all are gray, else three.
    label
        int64 ``[images]``, -1 without classes.
    categories
        Names of the classes.
    official
        Number of training, validation and test images, which are in this order; None without a split.

    Raises
    ------
    DataError
        If there are no images, one cannot be read, is a link that leads out of the directory or not a regular file,
        the directories are neither classes nor splits alone, or the images differ in size.
    """
    from PIL import ImageOps
    from tqdm.auto import tqdm

    files = find_images(folder)
    if not files:
        raise DataError(f"{folder} has no pictures ({', '.join(SUFFIXES)}), not in folders below it either")
    splits = _splits(folder, files)
    if splits is not None:
        files = [path for split in SPLITS for path, own in zip(files, splits, strict=True) if own == split]
    classes = _classes(folder, files, nested=splits is not None)
    pictures: list[Image] = []
    for path in tqdm(files, desc="reading pictures", unit="picture", disable=len(files) < 2000, mininterval=1):
        picture = decode_image(path)
        pictures.append(picture if size is None else ImageOps.fit(picture, (size, size)))
    _check_sizes(pictures, files)
    mode = "L" if all(picture.mode == "L" for picture in pictures) else "RGB"
    pixels = np.stack([np.asarray(picture.convert(mode)) for picture in pictures])
    pixels = pixels[:, None] if mode == "L" else np.ascontiguousarray(np.moveaxis(pixels, -1, 1))
    if pixels.max() < DARK:
        warnings.warn(
            f"{folder}: no image has a level above {pixels.max()} of 255 (white). Scale the levels first: of masks of "
            "0 and 1 by 255, of 16-bit files that use 12 bits or fewer by what is missing.",
            UserWarning,
            stacklevel=2,
        )
    categories = sorted({name for name in classes if name is not None}, key=natural)
    codes = {name: code for code, name in enumerate(categories)}
    label = np.array([-1 if name is None else codes[name] for name in classes], dtype=np.int64)
    official = None if splits is None else (splits.count("train"), splits.count("val"), splits.count("test"))
    return pixels, label, categories, official


def find_images(root: Path) -> list[Path]:
    """Return the image files below a directory in order of their paths, without hidden and left-behind ones.

    Raises
    ------
    DataError
        If a directory cannot be read or is a link, or an image file is not a regular file or a link that leads out.
    """

    def fail(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be read ({error.strerror})") from error

    files, others = [], []
    inside = os.path.realpath(root)
    for parent, directories, names in os.walk(root, onerror=fail):
        directories[:] = [name for name in directories if not _is_junk(name)]
        for path in (Path(parent, name) for name in directories):
            if path.is_symlink():
                raise DataError(f"{path} is a link to a directory. Put the directory itself there, or remove the link.")
        for path in (Path(parent, name) for name in names if not _is_junk(name)):
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
            f"{', '.join(SUFFIXES)}, skipped",
            UserWarning,
            stacklevel=3,
        )
    return sorted(files)


def _is_junk(name: str) -> bool:
    return name.startswith(".") or name in JUNK


def _splits(root: Path, files: list[Path]) -> list[str] | None:
    """Return the split of each file; None if no directory is named as one.

    Raises
    ------
    DataError
        If some are and some are not, two are the same split, none is for training, or splits lie within classes.
    """
    parents = [path.relative_to(root).parts[:-1] for path in files]
    tops = sorted({parent[0] for parent in parents if parent})
    named = {name: SPLIT_OF[name.lower()] for name in tops if name.lower() in SPLIT_OF}
    if not named:
        inner = {parent[1] for parent in parents if len(parent) > 1}
        if all(len(parent) > 1 for parent in parents):
            if len(inner) > 1 and all(name.lower() in SPLIT_OF for name in inner):
                raise DataError(
                    f"{root}: {', '.join(sorted(inner))} are splits, and lie within {', '.join(tops[:5])}. Put the "
                    "classes into the splits, such as train/cat."
                )
            if len(tops) == 1:
                raise DataError(f"{root}: all images lie in directories of {tops[0]}. Give {root / tops[0]} as path.")
        return None
    others = [f"{name}/" for name in tops if name not in named] + [path.name for path in files if path.parent == root]
    if others:
        raise DataError(
            f"{root}: {', '.join(f'{name}/' for name in named)} named as a split, next to {', '.join(others[:5])}. Put "
            "all images into train, val and test; if these are classes, rename the directories."
        )
    if len(set(named.values())) < len(named):
        raise DataError(f"{root}: {', '.join(named)} name one split twice. Put their images into one directory.")
    if "train" not in named.values():
        raise DataError(f"{root}: {', '.join(named)} without train. Add it; if these are classes, rename them.")
    return [named[parent[0]] for parent in parents]


def _classes(root: Path, files: list[Path], nested: bool) -> list[str | None]:
    """Return the class of each file, or None; ``nested``: below a directory for the split."""
    found: list[str | None] = []
    loose: dict[Path, Path] = {}
    classed: dict[Path, set[str]] = {}
    for path in files:
        parents = path.relative_to(root).parts[:-1]
        base = root / parents[0] if nested else root
        own = parents[nested] if len(parents) > nested else None
        found.append(own)
        if own is None:
            loose.setdefault(base, path)
        else:
            classed.setdefault(base, set()).add(own)
    for base, classes in classed.items():
        if base in loose:
            count = sum(path.parent == base for path in files)
            inner = sum(path.is_relative_to(base) for path in files) - count
            raise DataError(
                f"{base}: {inner} pictures lie in folders (classes) and {count} do not, such as {loose[base].name}; "
                "put all into folders, or none"
            )
        empty = [path.name for path in base.iterdir() if path.is_dir() and not _is_junk(path.name)]
        if empty := sorted(set(empty) - classes):
            warnings.warn(f"{base}: {', '.join(empty)} without images ({', '.join(SUFFIXES)}), skipped", UserWarning,
                          stacklevel=3)  # fmt: skip
    return found


def natural(name: str) -> tuple[int, str]:
    """Return a key that sorts numbers as numbers, before names."""
    return (len(name), name) if name.isdecimal() else (10**6, name)


def _check_sizes(pictures: list[Image], files: list[Path]) -> None:
    first = pictures[0].size
    for picture, path in zip(pictures, files, strict=True):
        if picture.size != first:
            raise DataError(
                f"{path} has {picture.size[0]} x {picture.size[1]} pixels and {files[0]} has {first[0]} x {first[1]}; "
                "give a size (data.size, such as 32) to which all are scaled"
            )
