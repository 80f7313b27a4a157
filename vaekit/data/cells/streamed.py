"""Cells larger than memory: blocks of neighbouring cells are read as they are needed, in a block-shuffled order.

Reading single cells of a file at random takes a seek a cell. Here a block of neighbours is read at once, and an epoch
goes through the blocks in random order, a pool of them at a time, the cells of a pool mixed. With a pool of ten
thousands of cells a batch is close to a random one, even in a file that is sorted by cell type. (The scheme is that of
D'Ascenzo and Cultrera di Montesano, "scDataset: Scalable Data Loading for Deep Learning on Large-Scale Single-Cell
Omics", 2025.)
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from vaekit.batch import Batch
from vaekit.data.cells.backed_counts import BackedCounts
from vaekit.data.dataset import BatchDataset

POOL_BYTES = 256 * 2**20  # of counts in memory at a time
MIN_BLOCK, MAX_BLOCK = 64, 2048  # cells
_NO_GENES, _NO_VALUES = np.empty(0, np.int32), np.empty(0, np.float32)


class BlockShuffle(Sampler[int]):
    """Positions of rows in random order, a pool of blocks at a time.

    The order comes from torch's global generator alone. Where all blocks fit into one pool, every order is as likely as
    any other.

    Parameters
    ----------
    rows
        Sorted row numbers, int64 ``[rows]``.
    block
        Neighbouring rows that are read together.
    pool
        Blocks that are mixed.
    """

    def __init__(self, rows: Tensor, block: int, pool: int) -> None:
        self.rows = rows
        self.block = block
        self.pool = pool

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[int]:
        _, block = torch.unique(self.rows // self.block, return_inverse=True)
        pool = torch.randperm(int(block.max()) + 1)[block] // self.pool
        mixed = torch.randperm(len(self.rows))
        return iter(mixed[torch.argsort(pool[mixed], stable=True)].tolist())


class _Block(NamedTuple):
    """Cells in memory: row starts, genes and values."""

    starts: np.ndarray
    genes: np.ndarray
    values: np.ndarray


class StreamedDataset(BatchDataset):
    """UMI counts that stay in their files, with what is known of each cell in memory.

    The blocks that were used last stay in memory, ``POOL_BYTES`` of them.

    Parameters
    ----------
    stored
        Counts of all genes.
    columns
        The modelled genes among them, int64 ``[genes]``; None for all.
    covariates, label, size_factor
        As for :class:`~vaekit.data.dataset.CountDataset`.
    """

    def __init__(
        self,
        stored: BackedCounts,
        columns: np.ndarray | None,
        covariates: Tensor | None,
        label: Tensor | None,
        size_factor: Tensor,
    ) -> None:
        self.stored = stored
        self.columns = columns
        self.covariates = covariates
        self.label = label
        self.size_factor = size_factor
        mean = max(stored.num_stored / len(stored), 1.0)
        # A compressed chunk is read whole whatever part of it is wanted: a block is as large, within reason.
        self.block = int(np.clip(stored.values_at_once / mean, MIN_BLOCK, MAX_BLOCK))
        self.pool = max(int(POOL_BYTES / (8 * mean * self.block)), 2)
        self._blocks: OrderedDict[int, _Block] = OrderedDict()

    def __len__(self) -> int:
        return len(self.stored)

    def random_order(self, rows: Tensor) -> Sampler[int]:
        """Return positions of ``rows`` in random order, a pool of blocks at a time."""
        return BlockShuffle(rows, self.block, self.pool)

    def __getitems__(self, rows: Sequence[int] | Tensor) -> Batch:
        from vaekit.data.cells.gather import dense_rows  # slow to import

        index = torch.as_tensor(rows, dtype=torch.int64)
        numbers, places = np.divmod(index.numpy(), self.block)
        blocks = {number: self._read(number) for number in np.unique(numbers).tolist()}
        spans = [
            (block := blocks[number], *block.starts[place : place + 2])
            for number, place in zip(numbers.tolist(), places.tolist(), strict=True)
        ]
        starts = np.cumsum([0, *(stop - start for _, start, stop in spans)])
        # Each begins with an array of nothing: several processes may have an empty batch.
        genes = np.concatenate([_NO_GENES, *(block.genes[start:stop] for block, start, stop in spans)])
        values = np.concatenate([_NO_VALUES, *(block.values[start:stop] for block, start, stop in spans)])
        width = len(self.stored.genes) if self.columns is None else len(self.columns)
        x, nonzero = dense_rows(starts, genes, values, np.arange(len(index)), width)
        return Batch(
            x=x,
            size_factor=self.size_factor[index],
            covariates=None if self.covariates is None else self.covariates[index],
            label=None if self.label is None else self.label[index],
            index=index,
            nonzero=nonzero,
        )

    def _read(self, number: int) -> _Block:
        """Return a block, from memory or from the file."""
        if number in self._blocks:
            self._blocks.move_to_end(number)
            return self._blocks[number]
        start = number * self.block
        cells = self.stored.read(start, min(start + self.block, len(self)))
        if self.columns is not None:
            cells = cells[:, self.columns]
            cells.sort_indices()
        block = _Block(cells.indptr.astype(np.int64), cells.indices, cells.data.astype(np.float32, copy=False))
        self._blocks[number] = block
        # One batch may need blocks of two pools, at the end of the first.
        while len(self._blocks) > self.pool + 256:
            self._blocks.popitem(last=False)
        return block
