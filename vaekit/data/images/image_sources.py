"""Image sets with labels: scikit-learn's digits, MNIST and Fashion-MNIST through torchvision, and custom images."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vaekit._core import memory_budget
from vaekit.data.images.image_directory import read_image_directory
from vaekit.data.images.image_files import read_npz
from vaekit.exceptions import DataError, did_you_mean, format_bytes

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
TORCHVISION_CLASSES = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}


class Images(NamedTuple):
    """Images as integer gray levels.

    Attributes
    ----------
    pixels : Tensor, shape (images, channels, height, width)
        Gray levels, uint8, from 0 to ``max_level``.
    max_level : int
        Level that becomes 1.
    label : Tensor, shape (images,)
        Class of each image, int64, -1 if unknown.
    categories : list of str
        Names of the classes; empty without classes.
    official : tuple of int or None
        Numbers of training, validation and test images, in this order; None without an official split.
    source : str
        Name of the images in messages.
    """

    pixels: Tensor
    max_level: int
    label: Tensor
    categories: list[str]
    official: tuple[int, int, int] | None
    source: str


def load_images(name: str, root: Path) -> Images:
    """Load the image set ``name``, and download missing files to ``root``."""
    if name == "digits":
        return _load_digits()
    if name not in TORCHVISION_CLASSES:
        hint = did_you_mean(name, ["digits", *TORCHVISION_CLASSES])
        raise DataError(f"name={name!r} is unknown. {'It is a path: pass path=.' if Path(name).exists() else hint}")
    return _load_torchvision(name, root)


def load_custom_images(path: Path, size: int | None) -> Images:
    """Load a directory of image files, scaled and cropped to ``size`` if it is not None, or an .npz file."""
    if path.is_dir():
        pixels, label, categories, official = read_image_directory(path, size)
    elif path.suffix.lower() == ".npz" and path.is_file():
        if size is not None:
            raise DataError(f"image_size={size} requires a directory of image files, but path is {path}.")
        pixels, label, categories, official = read_npz(path)
    else:
        problem = "is of another kind" if path.exists() else "does not exist"
        raise DataError(f"path={str(path)!r} {problem}. Pass a directory of image files or an .npz file.")
    return Images(torch.from_numpy(pixels), 255, torch.from_numpy(label), categories, official, str(path))


def _load_digits() -> Images:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return Images(
        pixels=torch.from_numpy(digits.images).to(torch.uint8).unsqueeze(1),
        max_level=16,
        label=torch.from_numpy(digits.target).long(),
        categories=[str(name) for name in digits.target_names],
        official=None,
        source="digits (scikit-learn)",
    )


def _load_torchvision(name: str, root: Path) -> Images:
    from torchvision import datasets

    cls = getattr(datasets, TORCHVISION_CLASSES[name])
    directory = root / cls.__name__ / "raw"
    _inflate(directory)
    download = not all((directory / file).is_file() for file in IDX_FILES)
    parts = [_read_idx(cls, root, directory, train, download) for train in (True, False)]
    for part in parts:
        if len(part.data) != len(part.targets) or len(part.data) == 0:
            raise DataError(f"{directory}: {len(part.data)} images and {len(part.targets)} labels do not match.")
    return Images(
        pixels=torch.cat([part.data for part in parts]).unsqueeze(1),
        max_level=255,
        label=torch.cat([part.targets for part in parts]).long(),
        categories=list(cls.classes) if name == "fashion_mnist" else [str(digit) for digit in range(10)],
        official=(len(parts[0].data), 0, len(parts[1].data)),
        source=f"{cls.__name__} in {root}",
    )


def _inflate(directory: Path) -> None:
    """Inflate existing .gz files, so that torchvision does not download them again."""
    for file in IDX_FILES:
        packed, plain = directory / f"{file}.gz", directory / file
        if plain.is_file() or not packed.is_file():
            continue
        partial = plain.with_suffix(".part")
        limit = memory_budget.MAX_IDX_BYTES
        try:
            with gzip.open(packed, "rb") as source, partial.open("wb") as target:
                while block := source.read(2**20):
                    target.write(block)
                    if target.tell() > limit:
                        raise OSError(f"it holds more than {format_bytes(limit)}, but MNIST has 47 MB")
        except (OSError, EOFError, zlib.error) as error:
            partial.unlink(missing_ok=True)
            raise DataError(f"{packed} cannot be inflated ({error}). Delete it to download it again.") from error
        partial.replace(plain)  # atomic: an interrupted run leaves no partial file under the final name


def _read_idx(cls: Any, root: Path, directory: Path, train: bool, download: bool) -> Any:
    try:
        return cls(root, train=train, download=download)
    except Exception as error:  # network errors of many types; assertions and value errors of the idx reader
        if download:
            raise DataError(
                f"{cls.__name__} could not be downloaded to {directory} ({type(error).__name__}: {error}). Without a "
                f"network, put these files there, plain or as .gz: {', '.join(IDX_FILES)}."
            ) from error
        raise DataError(f"{directory}: files are not in idx format ({type(error).__name__}: {error}).") from error
