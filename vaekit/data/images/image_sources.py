"""Images with their labels: digits of scikit-learn, MNIST and Fashion-MNIST through torchvision, a user's own."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vaekit.data.images.image_directory import read_image_directory
from vaekit.data.images.image_files import read_npz
from vaekit.exceptions import DataError, did_you_mean

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
MAX_BYTES = 2**30  # of a file of them: a few kilobytes can be inflated to terabytes
TORCHVISION_CLASSES = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}


class Images(NamedTuple):
    """Images as whole grey levels.

    Attributes
    ----------
    pixels
        Grey levels, uint8 ``[images, channels, height, width]``, from 0 to ``white``.
    white
        The level that becomes 1.
    label
        Class of each image, int64 ``[images]``; -1 where unknown.
    categories
        Names of the classes; empty where there are none.
    official
        Numbers of training, validation and test images of the official split, in which order they are; None without
        one.
    source
        What the images are, in words.
    """

    pixels: Tensor
    max_level: int
    label: Tensor
    categories: list[str]
    official: tuple[int, int, int] | None
    source: str


def load_images(name: str, root: Path) -> Images:
    """Load the image set ``name``; what must be downloaded goes into ``root``.

    Raises
    ------
    DataError
        If the name is unknown, or the files are neither there nor to be had, or are not in idx format.
    """
    if name == "digits":
        return _digits()
    if name not in TORCHVISION_CLASSES:
        raise DataError(f"name={name!r} is no image set. {did_you_mean(name, ['digits', *TORCHVISION_CLASSES])}")
    return _torchvision(name, root)


def load_custom_images(path: Path, size: int | None) -> Images:
    """Load a user's own images: a folder of pictures, or an .npz file.

    Parameters
    ----------
    path
        The folder or file.
    size
        Side to which the pictures of a folder are scaled and cropped; None: as they are.

    Raises
    ------
    DataError
        If there is no such file or folder, or its images cannot be used.
    """
    if path.is_dir():
        pixels, label, categories, official = read_image_directory(path, size)
    elif path.suffix.lower() == ".npz" and path.is_file():
        if size is not None:
            raise DataError(f"size={size} is for folders of pictures; the images of {path} are taken as they are")
        pixels, label, categories, official = read_npz(path)
    else:
        what = "is neither a folder of pictures nor an .npz file" if path.exists() else "does not exist"
        raise DataError(f"path {path} {what}; a folder of pictures or an .npz file is needed")
    return Images(torch.from_numpy(pixels), 255, torch.from_numpy(label), categories, official, str(path))


def _digits() -> Images:
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


def _torchvision(name: str, root: Path) -> Images:
    from torchvision import datasets

    cls = getattr(datasets, TORCHVISION_CLASSES[name])
    folder = root / cls.__name__ / "raw"
    _unpack(folder)
    missing = [file for file in IDX_FILES if not (folder / file).is_file()]
    parts = [_read(cls, root, folder, train, download=bool(missing)) for train in (True, False)]
    for part in parts:
        if len(part.data) != len(part.targets) or len(part.data) == 0:
            raise DataError(f"{folder}: {len(part.data)} images and {len(part.targets)} labels do not match")
    return Images(
        pixels=torch.cat([part.data for part in parts]).unsqueeze(1),
        max_level=255,
        label=torch.cat([part.targets for part in parts]).long(),
        categories=list(cls.classes) if name == "fashion_mnist" else [str(digit) for digit in range(10)],
        official=(len(parts[0].data), 0, len(parts[1].data)),
        source=f"{cls.__name__} in {root}",
    )


def _unpack(folder: Path) -> None:
    """Unpack the .gz files that are there, so that torchvision does not fetch them again."""
    for file in IDX_FILES:
        packed, plain = folder / f"{file}.gz", folder / file
        if plain.is_file() or not packed.is_file():
            continue
        part = plain.with_suffix(".part")
        try:
            with gzip.open(packed, "rb") as source, part.open("wb") as target:
                while block := source.read(2**20):
                    target.write(block)
                    if target.tell() > MAX_BYTES:
                        raise OSError(f"it holds more than {MAX_BYTES} bytes, where MNIST has 47 million")
        except (OSError, EOFError, zlib.error) as error:
            part.unlink(missing_ok=True)
            raise DataError(f"{packed} cannot be unpacked ({error}); delete it to download it again") from error
        part.replace(plain)  # in one step: an interrupted run leaves no half file under the final name


def _read(cls: Any, root: Path, folder: Path, train: bool, download: bool) -> Any:
    try:
        return cls(root, train=train, download=download)
    except Exception as error:  # network errors of many kinds; assertions and value errors of the idx reader
        if download:
            raise DataError(
                f"{cls.__name__} could not be downloaded into {folder} ({type(error).__name__}: {error}); "
                f"without a network, put these files there, plain or as .gz: {', '.join(IDX_FILES)}"
            ) from error
        raise DataError(f"{folder}: the files are not in idx format ({type(error).__name__}: {error})") from error
