"""Images for pixel likelihoods: binary, gray or in color."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from vaekit._core import memory_budget
from vaekit.data.data_module import DataModule, restore_split
from vaekit.data.fingerprint import check_fingerprint, fingerprint
from vaekit.data.images.deskew import deskew
from vaekit.data.images.image_dataset import ImageDataset
from vaekit.data.images.image_sources import Images, load_custom_images, load_images
from vaekit.data.loaded_data import LoadedData, from_loaded
from vaekit.data.splits import as_splits, hold_out, split_rows
from vaekit.exceptions import DataError, did_you_mean

LABEL = "label"  # column of figures and of observed_key
BINARIZATIONS = ("dynamic", "fixed", "threshold", "none")


@dataclass(frozen=True)
class LoadedImages(LoadedData):
    """:class:`LoadedData` with the shape of the images (channels, height, width)."""

    image_shape: tuple[int, int, int]


class ImageData(DataModule):
    """Small images, gray or in color, flattened: ``x`` is ``[batch, channels * height * width]`` in 0..1.

    Parameters
    ----------
    name : str
        'digits' (scikit-learn's 1,797 images of 8 x 8, no download), 'mnist' or 'fashion_mnist' (70,000 images of 28 x
        28).
    root : str
        Directory for downloads. Files that exist there, plain or as .gz, are not downloaded again.
    binarization : str
        'dynamic' draws each pixel from its gray level, again in each training batch and once for validation and test.
        'fixed' draws all pixels once. 'threshold' sets pixels above one half to 1. 'none' keeps the gray levels.
    batch_size : int
        Images per mini-batch.
    split : tuple of float or None
        Fractions of training, validation and test images, stratified by class. None means the official split, with a
        twelfth of the training images for a missing part (55,000/5,000), or (0.8, 0.1, 0.1) without an official split.
    seed : int
        Seed of the split and of the pixels that are drawn once.
    path : str or None
        Custom images; ``name`` and ``root`` are then ignored. A directory of images, in which directories named train,
        val and test are the official split and other ones are classes. Or an .npz file with ``images`` and ``labels``,
        or by split: ``x_train``, ``y_train``, ``x_test``, ... or ``train_images``, ``train_labels``, ... (MedMNIST).
    image_size : int or None
        Side to which the images of a directory are scaled and cropped. None requires equal sizes.
    deskew : bool
        Whether to straighten handwriting first (:func:`vaekit.data.images.deskew.deskew`). The model and its ELBO then
        refer to deskewed images. They need light ink on a dark background, as in MNIST.
    observed_key : str or None
        "label": a latent such as ``Categorical(observed_key="label")`` learns from the classes of the training images
        (``Batch.observed_label``). None: classes are never used in training.

    Raises
    ------
    DataError
        If an argument is invalid, files cannot be downloaded or read, or there are too few images to split.

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
        observed_key: str | None = None,
    ) -> None:
        if image_size is not None and (image_size < 1 or path is None):
            raise DataError(
                f"image_size={image_size} must be positive, and requires path={path!r} to be a directory of images."
            )
        if binarization not in BINARIZATIONS:
            raise DataError(f"binarization={binarization!r} is unknown. {did_you_mean(binarization, BINARIZATIONS)}")
        if observed_key not in (None, LABEL):
            raise DataError(f"observed_key={observed_key!r} must be {LABEL!r}: images have their classes only.")
        root = str(Path(root).expanduser().absolute())
        path = None if path is None else str(Path(path).expanduser().absolute())
        self._arguments.update(root=root, path=path)
        self.name = name
        self.root = root
        self.binarization = binarization
        self.path, self.image_size, self.deskew = path, image_size, deskew
        self.observed_key = observed_key
        super().__init__(batch_size, split, seed)

    @override
    def _load(self, state: Mapping[str, Any] | None) -> LoadedImages:
        if self.path is not None:
            images = load_custom_images(Path(self.path), self.image_size)
        else:
            images = load_images(self.name, Path(self.root))
        identity = fingerprint([images.pixels.numpy(), images.label.numpy()])
        check_fingerprint(identity, images.source, state)
        split = self._split(images) if state is None else restore_split(state)
        pixels = deskew(images.pixels) if self.deskew else images.pixels
        _, channels, height, width = pixels.shape
        observed = None if self.observed_key is None else self._training_labels(images, split["train"])
        draw = self.binarization == "dynamic"
        gray = ImageDataset(pixels.flatten(1), images.max_level, images.label, draw, observed)
        dataset = self._binarize(gray)
        train = gray if gray.draw else dataset
        return LoadedImages(
            dataset=dataset,
            train_dataset=train,
            split_indices=split,
            features=gray.pixels.shape[1],
            covariates=0,
            mean=_mean(train, split["train"]),
            label_categories=images.categories,
            labels=np.array([*images.categories, None], dtype=object)[images.label.numpy()],  # -1 is unknown
            observed_categories={self.observed_key: images.categories} if self.observed_key else {},
            observed_labels=images.label.numpy() if self.observed_key else None,
            fingerprint=identity,
            source=images.source,
            image_shape=(channels, height, width),
        )

    def _training_labels(self, images: Images, train: Tensor) -> Tensor:
        """Return the classes of the training images, -1 for all others."""
        label = torch.full_like(images.label, -1)
        label[train] = images.label[train]
        if not (label >= 0).any():
            raise DataError(f"observed_key={LABEL!r}: the training images of {images.source} do not have classes.")
        return label

    def _split(self, images: Images) -> dict[str, Tensor]:
        num_images, codes = len(images.pixels), images.label.numpy() if images.categories else None
        if self.split is not None or images.official is None:
            return split_rows(num_images, self.split or (0.8, 0.1, 0.1), self.seed, codes)
        num_train, num_val, _ = images.official
        train, val, test = np.split(np.arange(num_images), [num_train, num_train + num_val])
        num_held_out = max(1, round(num_train / 12))
        if num_train <= num_held_out * ((not len(val)) + (not len(test))):
            raise DataError(f"{images.source}: {num_train} training images are too few to split.")
        if not len(val):
            train, val = hold_out(train, num_held_out, self.seed, codes)
        if not len(test):
            train, test = hold_out(train, num_held_out, self.seed, codes)
        return as_splits(train, val, test)

    def _binarize(self, gray: ImageDataset) -> ImageDataset:
        """Return the images with pixels that stay the same in every epoch."""
        if self.binarization == "none":
            return gray
        if self.binarization == "threshold":
            pixels = (gray.pixels > gray.max_level / 2).to(torch.uint8)
            return ImageDataset(pixels, 1, gray.label, observed_label=gray.observed_label)
        generator = torch.Generator().manual_seed(self.seed)
        parts = [
            torch.bernoulli(part.float() / gray.max_level, generator=generator).to(torch.uint8)
            for part in gray.pixels.split(memory_budget.CHUNK_IMAGES)
        ]
        return ImageDataset(torch.cat(parts), 1, gray.label, observed_label=gray.observed_label)

    image_shape: tuple[int, int, int] = from_loaded(
        "image_shape", "Channels, height and width, in the order in which ``x`` is flattened."
    )

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return the base class's state and the shape of the images, so that a model can sample without its data."""
        return super().state_dict() | {"image_shape": list(self.image_shape)}

    @override
    def _size(self) -> str:
        channels, height, width = self.image_shape
        colors = "" if channels == 1 else f" in {channels} channels"
        deskewed = ", deskewed" if self.deskew else ""
        return f"{len(self.dataset)} images of {height} x {width}{colors}{deskewed}, binarization {self.binarization}"


def _mean(dataset: ImageDataset, rows: Tensor) -> Tensor:
    total = torch.zeros(dataset.pixels.shape[1], dtype=torch.float64)
    for part in rows.split(memory_budget.CHUNK_IMAGES):
        total += dataset.pixels[part].sum(0, dtype=torch.int64)
    return (total / (len(rows) * dataset.max_level)).float()
