"""Data sets of images in memory, on the CPU or on a GPU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from vaekit.batch import Batch
from vaekit.data.dataset import BatchDataset, copy_async


class ImageDataset(BatchDataset):
    """Images as integer gray levels.

    Parameters
    ----------
    pixels : Tensor, shape (images, features)
        Gray levels, uint8, from 0 to ``max_level``.
    max_level : int
        Level that becomes 1.
    label : Tensor, shape (images,)
        Class of each image, int64.
    draw : bool
        Whether each mini-batch is binarized again: ``x ~ Bernoulli(pixel)`` from torch's global generator.
    observed_label : Tensor or None, shape (images,)
        Known class of each training image, int64, -1 if unknown or not a training image.
    """

    def __init__(
        self, pixels: Tensor, max_level: int, label: Tensor, draw: bool = False, observed_label: Tensor | None = None
    ) -> None:
        self.pixels, self.max_level, self.label, self.draw = pixels, max_level, label, draw
        self.observed_label = observed_label

    @override
    def __len__(self) -> int:
        return len(self.pixels)

    @override
    def __getitems__(self, rows: Sequence[int] | Tensor) -> Batch:
        index = torch.as_tensor(rows, dtype=torch.int64)
        # In numpy: torch would distribute this small operation over threads, which is slow on busy cores.
        x = torch.from_numpy(np.divide(self.pixels.numpy()[index.numpy()], self.max_level, dtype=np.float32))
        return self._batch(index, x)

    def _batch(self, index: Tensor, x: Tensor) -> Batch:
        return Batch(
            x=torch.bernoulli(x) if self.draw else x,
            label=self.label[index],
            index=index,
            observed_label=None if self.observed_label is None else self.observed_label[index],
        )

    @property
    @override
    def num_bytes(self) -> int:
        return self.pixels.nbytes

    @override
    def copy_to(self, device: torch.device) -> ImagesOnDevice:
        return ImagesOnDevice(self, device)


class ImagesOnDevice(ImageDataset):
    """Images of an :class:`ImageDataset`, copied to a GPU, whose generator binarizes them."""

    def __init__(self, dataset: ImageDataset, device: torch.device) -> None:
        observed = None if dataset.observed_label is None else dataset.observed_label.to(device)
        pixels, label = dataset.pixels.to(device), dataset.label.to(device)
        super().__init__(pixels, dataset.max_level, label, dataset.draw, observed)
        self.device = device

    @override
    def __getitems__(self, rows: Sequence[int] | Tensor) -> Batch:
        index = copy_async(torch.as_tensor(rows, dtype=torch.int64), self.device)
        return self._batch(index, self.pixels[index] / self.max_level)
