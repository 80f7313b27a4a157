"""Images for likelihoods over pixels: binary, grey or in colour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vaekit.data.data_module import DataModule, LoadedData, check_fingerprint, fingerprint, restored_split
from vaekit.data.dataset import ImageDataset
from vaekit.data.images.deskew import deskew
from vaekit.data.images.image_sources import Images, load_custom_images, load_images
from vaekit.data.splits import as_splits, hold_out, split_rows
from vaekit.exceptions import DataError, did_you_mean

BINARIZATIONS = ("dynamic", "fixed", "threshold", "none")


@dataclass(frozen=True)
class ResidentImages(LoadedData):
    """Images in memory: :class:`LoadedData` with their shape (channels, height, width)."""

    image_shape: tuple[int, int, int]


class ImageData(DataModule):
    """Small images, grey or in colour, flattened: ``x`` is ``[batch, channels * height * width]`` in 0..1.

    Parameters
    ----------
    name
        'digits' (scikit-learn's, 1,797 of 8 x 8, no download), 'mnist' or 'fashion_mnist' (70,000 of 28 x
        28).
    root
        Folder for downloads. Nothing is downloaded where the files are there, plain or as .gz.
    binarization
        'dynamic': each pixel is 1 with the probability of its grey level, drawn anew in every training batch
        and once for validation and test; 'fixed': drawn once for all; 'threshold': 1 above a half; 'none':
        as they are.
    batch_size
        Images in a batch.
    split
        Fractions of training, validation and test images, stratified by class. None: the official split
        where there is one, with a twelfth of the training images for a part that it lacks (55,000/5,000); else (0.8,
        0.1, 0.1).
    seed
        Seed of the split and of the pixels that are drawn once.
    path
        Images of one's own, which ``name`` and ``root`` then have no part in: a directory of images, where directories
        named train, val and test are the official split and others classes, or an .npz file with ``images`` and
        ``labels``, or by split ``x_train``, ``y_train``, ``x_test``, ... or ``train_images``, ``train_labels``, ...
        (MedMNIST).
    image_size
        Side to which the pictures of a folder are scaled and cropped; None: they are all of one size.
    deskew
        Whether to set handwriting upright by the moments of its ink (:func:`vaekit.data.images.deskew.deskew`), before
        all else: the images modelled, and their bounds, are then those of the deskewed ones. It needs light ink on a
        dark ground, as in MNIST.

    Raises
    ------
    DataError
        If an argument is unknown, files cannot be downloaded or read, or there are too few images to split.

    Examples
    --------
    >>> data = ImageData("digits")
    >>> data.features, data.image_shape
    (64, (1, 8, 8))
    """

    kind = "images"
    name: str

    def __init__(
        self,
        name: str = "digits",
        root: str = "data",
        binarization: str = "dynamic",
        batch_size: int = 128,
        split: tuple[float, float, float] | None = None,
        seed: int = 0,
        path: str | None = None,
        image_size: int | None = None,
        deskew: bool = False,
    ) -> None:
        if image_size is not None and (image_size < 1 or path is None):
            raise DataError(
                f"image_size={image_size}: a positive side for the pictures of a folder (path), which is {path!r}"
            )
        if binarization not in BINARIZATIONS:
            raise DataError(f"binarization={binarization!r} not found. {did_you_mean(binarization, BINARIZATIONS)}")
        root = str(Path(root).expanduser().absolute())
        path = None if path is None else str(Path(path).expanduser().absolute())
        self._arguments.update(root=root, path=path)
        self.name = name
        self.root = root
        self.binarization = binarization
        self.path, self.image_size, self.deskew = path, image_size, deskew
        super().__init__(batch_size, split, seed)

    def _load(self, state: Mapping[str, Any] | None) -> ResidentImages:
        own = self.path is not None
        images = (
            load_custom_images(Path(str(self.path)), self.image_size)
            if own
            else load_images(self.name, Path(self.root))
        )
        identity = fingerprint([images.pixels.numpy(), images.label.numpy()])
        check_fingerprint(identity, images.source, state)
        split = self._split(images) if state is None else restored_split(state)
        if self.deskew:
            images = images._replace(pixels=deskew(images.pixels))
        _, channels, height, width = images.pixels.shape
        grey = ImageDataset(
            images.pixels.flatten(1), images.max_level, images.label, draw=self.binarization == "dynamic"
        )
        dataset = self._binarized(grey)
        train = grey if grey.draw else dataset
        return ResidentImages(
            dataset=dataset,
            train_dataset=train,
            split_indices=split,
            features=grey.pixels.shape[1],
            covariates=0,
            mean=_mean(train, split["train"]),
            label_categories=images.categories,
            labels=np.array([*images.categories, None], dtype=object)[images.label.numpy()],  # -1: unknown
            fingerprint=identity,
            source=images.source,
            image_shape=(channels, height, width),
        )

    def _split(self, images: Images) -> dict[str, Tensor]:
        num_images, codes = len(images.pixels), images.label.numpy() if images.categories else None
        if self.split is not None or images.official is None:
            return split_rows(num_images, self.split or (0.8, 0.1, 0.1), self.seed, codes)
        num_train, num_val, _ = images.official
        train, val, test = np.split(np.arange(num_images), [num_train, num_train + num_val])
        held_out = max(1, round(num_train / 12))
        if num_train <= held_out * (not len(val)) + held_out * (not len(test)):
            raise DataError(f"{images.source}: {num_train} training images are too few to split")
        if not len(val):
            train, val = hold_out(train, held_out, self.seed, codes)
        if not len(test):
            train, test = hold_out(train, held_out, self.seed, codes)
        return as_splits(train, val, test)

    def _binarized(self, grey: ImageDataset) -> ImageDataset:
        """Return the images with pixels that stay the same in every epoch."""
        if self.binarization == "none":
            return grey
        if self.binarization == "threshold":
            return ImageDataset((grey.pixels > grey.max_level / 2).to(torch.uint8), 1, grey.label)
        generator = torch.Generator().manual_seed(self.seed)
        drawn = [
            torch.bernoulli(part.float() / grey.max_level, generator=generator).to(torch.uint8)
            for part in grey.pixels.split(8192)  # float32 copies of all images at once would take four times more
        ]
        return ImageDataset(torch.cat(drawn), 1, grey.label)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width, in the order in which ``x`` is flattened."""
        return self.loaded.image_shape

    def state_dict(self) -> dict[str, Any]:
        """Return what the base class does and the images' shape, so that a model can draw without its data."""
        return super().state_dict() | {"image_shape": list(self.image_shape)}

    def _size(self) -> str:
        channels, height, width = self.image_shape
        colours = "" if channels == 1 else f" in {channels} channels"
        upright = ", deskewed" if self.deskew else ""
        return f"{len(self.dataset)} images of {height} x {width}{colours}{upright}, binarization {self.binarization}"


def _mean(dataset: ImageDataset, rows: Tensor) -> Tensor:
    total = torch.zeros(dataset.pixels.shape[1], dtype=torch.float64)
    for part in rows.split(8192):
        total += dataset.pixels[part].sum(0, dtype=torch.int64)
    return (total / (len(rows) * dataset.max_level)).float()
