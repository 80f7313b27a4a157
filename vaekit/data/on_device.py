"""Data in a GPU's memory: batches are put together there, from the row numbers alone.

The order of the rows is drawn on the CPU as without a GPU, from the same generator, so that a seed gives the same
batches on both and a training goes on where it was stopped; two numbers a row go to the device, and nothing waits for
it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vaekit.batch import Batch
from vaekit.data.dataset import BatchDataset, CountDataset, ImageDataset

SHARE = 0.5  # of the device's free memory that data may take


def on_device(dataset: BatchDataset, device: torch.device) -> BatchDataset:
    """Return the data set on ``device`` if that is a GPU whose free memory is at least twice as large, else as it is.

    Counts that stay in their files stay there.
    """
    if device.type != "cuda" or not isinstance(dataset, CountDataset | ImageDataset):
        return dataset
    held = [dataset.counts.data, dataset.counts.indices] if isinstance(dataset, CountDataset) else [dataset.pixels]
    if sum(part.nbytes for part in held) > SHARE * torch.cuda.mem_get_info(device)[0]:
        return dataset
    return CountsOnDevice(dataset, device) if isinstance(dataset, CountDataset) else ImagesOnDevice(dataset, device)


class CountsOnDevice(BatchDataset):
    """The rows of a :class:`~vaekit.data.dataset.CountDataset`, on another device.

    Its batches are the same, but that they do not tell where the non-zero counts are: a GPU does not ask.

    Parameters
    ----------
    dataset
        All rows, on the CPU.
    device
        Where they are copied to.
    """

    def __init__(self, dataset: CountDataset, device: torch.device) -> None:
        counts = dataset.counts
        self.features = counts.shape[1]
        self.device = device
        starts = torch.from_numpy(counts.indptr).long()
        self._lengths = starts.diff()  # on the CPU: there, the size of a batch is known without waiting
        self._starts = starts.to(device)
        self._genes, self._values = (torch.from_numpy(part).to(device) for part in (counts.indices, counts.data))
        kept = (dataset.size_factor, dataset.covariates, dataset.label, dataset.observed)
        moved = [None if part is None else part.to(device) for part in kept]
        self._size_factor, self._covariates, self._label, self._observed = moved

    def __len__(self) -> int:
        return len(self._lengths)

    def __getitems__(self, rows: Sequence[int] | Tensor) -> Batch:
        here = torch.as_tensor(rows, dtype=torch.int64)
        lengths = self._lengths[here]
        return self.gather(copy_async(here, self.device), copy_async(lengths, self.device), int(lengths.sum()))

    def gather(self, index: Tensor, lengths: Tensor, count: int) -> Batch:
        """Put a batch together, without waiting.

        Parameters
        ----------
        index
            Row numbers, int64 ``[batch]`` on the device.
        lengths
            How many non-zero counts each has, int64 ``[batch]`` on the device.
        count
            How many all of them have.
        """
        # The k-th value of the batch belongs to a cell, and stands as far from that cell's first as k from k's first.
        cell = torch.repeat_interleave(lengths, output_size=count)
        shift = self._starts[index] - (lengths.cumsum(0) - lengths)
        place = torch.arange(count, device=self.device) + shift[cell]
        x = torch.zeros(len(index), self.features, device=self.device)
        x[cell, self._genes[place].long()] = self._values[place]
        return Batch(
            x=x,
            size_factor=None if self._size_factor is None else self._size_factor[index],
            covariates=None if self._covariates is None else self._covariates[index],
            label=None if self._label is None else self._label[index],
            index=index,
            observed=None if self._observed is None else self._observed.expand_as(x),
        )


class ImagesOnDevice(BatchDataset):
    """The rows of an :class:`~vaekit.data.dataset.ImageDataset`, on another device, whose generator draws them.

    Parameters
    ----------
    dataset
        All rows, on the CPU.
    device
        Where they are copied to.
    """

    def __init__(self, dataset: ImageDataset, device: torch.device) -> None:
        self.device = device
        self.max_level, self.draw = dataset.max_level, dataset.draw
        self._pixels, self._label = dataset.pixels.to(device), dataset.label.to(device)

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitems__(self, rows: Sequence[int] | Tensor) -> Batch:
        index = copy_async(torch.as_tensor(rows, dtype=torch.int64), self.device)
        x = self._pixels[index] / self.max_level
        return Batch(x=torch.bernoulli(x) if self.draw else x, label=self._label[index], index=index)


def copy_async(values: Tensor, device: torch.device) -> Tensor:
    """Return a copy on ``device`` without waiting for it: a GPU reads from memory that is pinned while it works."""
    return (values.pin_memory() if device.type == "cuda" else values).to(device, non_blocking=True)
