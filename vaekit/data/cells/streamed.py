"""Cells larger than memory: blocks of neighboring cells are read as they are needed, in a block-shuffled order.

Reading single cells at random needs one seek per cell. Here a block of neighbors is read at once. An epoch visits the
blocks in random order, a pool of them at a time, and mixes the cells of a pool. With tens of thousands of cells per
pool, a mini-batch is close to a random one, even if the file is sorted by cell type.

D'Ascenzo and Cultrera di Montesano (2025), scDataset: Scalable data loading for deep learning on large-scale
single-cell omics.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler
from typing_extensions import override

from vaekit.batch import Batch
from vaekit.data.cells.count_dataset import CellDataset

if TYPE_CHECKING:
    from vaekit.data.cells.count_source import CountSource

LISTED = 2**16  # positions that are Python's integers at a time: of ten million, these would take 400 MB
_NO_GENES, _NO_VALUES = np.empty(0, np.int32), np.empty(0, np.float32)


class BlockShuffle(Sampler[int]):
    """Positions of rows in random order, a pool of blocks at a time, from torch's global generator.

    If all blocks fit into one pool, all orders are equally likely.

    Parameters
    ----------
    rows : Tensor, shape (rows,)
        Sorted row indices, int64.
    block, pool : int
        Number of neighboring rows that are read together, and number of blocks that are mixed.
    """

    def __init__(self, rows: Tensor, block: int, pool: int) -> None:
        self.rows, self.block, self.pool = rows, block, pool

    @override
    def __iter__(self) -> Iterator[int]:
        _, block = torch.unique(self.rows // self.block, return_inverse=True)
        pool = torch.randperm(int(block.max()) + 1)[block] // self.pool
        mixed = torch.randperm(len(self.rows))
        order = mixed[torch.argsort(pool[mixed], stable=True)]
        return itertools.chain.from_iterable(map(Tensor.tolist, order.split(LISTED)))

    def __len__(self) -> int:
        return len(self.rows)


class _Block(NamedTuple):
    """Cells in memory, as the arrays of a CSR matrix."""

    indptr: np.ndarray
    indices: np.ndarray
    data: np.ndarray


class StreamedDataset(CellDataset):
    """Counts that stay in their files; the blocks that were used last are in memory.

    Parameters
    ----------
    source : CountSource
        Counts.
    block, pool : int
        Number of neighboring cells that are read together, and of blocks in memory in addition to those of a batch.
    covariates, label, size_factor, observed, observed_label
        As for :class:`~vaekit.data.cells.count_dataset.CellDataset`.
    """

    def __init__(
        self,
        source: CountSource,
        block: int,
        pool: int,
        covariates: Tensor | None,
        label: Tensor | None,
        size_factor: Tensor,
        observed: Tensor | None = None,
        observed_label: Tensor | None = None,
    ) -> None:
        super().__init__(covariates, label, size_factor, observed, observed_label)
        self.source, self.block, self.pool = source, block, pool
        self._blocks: OrderedDict[int, _Block] = OrderedDict()

    @override
    def random_order(self, rows: Tensor) -> Sampler[int]:
        return BlockShuffle(rows, self.block, self.pool)

    @override
    def __getitems__(self, rows: Sequence[int] | Tensor) -> Batch:
        from vaekit.data.cells.gather import dense_rows  # importing numba takes long

        index = torch.as_tensor(rows, dtype=torch.int64)
        numbers, offsets = np.divmod(index.numpy(), self.block)
        needed = np.unique(numbers).tolist()
        limit = self.pool + len(needed) if self.pool else 1  # without a pool, cells may come from the whole file
        cells: list[tuple[np.ndarray, np.ndarray]] = [(_NO_GENES, _NO_VALUES)] * len(index)
        for number in needed:
            block = self._read(number)
            for position in np.flatnonzero(numbers == number).tolist():
                span = slice(*block.indptr[offsets[position] : offsets[position] + 2])
                cells[position] = block.indices[span].copy(), block.data[span].copy()  # a view would keep the block
            while len(self._blocks) > limit:
                self._blocks.popitem(last=False)
        indptr = np.cumsum([0, *(len(genes) for genes, _ in cells)])
        # The empty arrays allow for empty batches, which one of several processes may have.
        indices = np.concatenate([_NO_GENES, *(genes for genes, _ in cells)])
        data = np.concatenate([_NO_VALUES, *(values for _, values in cells)])
        return self._batch(index, *dense_rows(indptr, indices, data, np.arange(len(index)), len(self.source.genes)))

    def _read(self, number: int) -> _Block:
        """Return a block, from memory or from the files."""
        if number in self._blocks:
            self._blocks.move_to_end(number)
            return self._blocks[number]
        start = number * self.block
        cells = self.source.rows(np.arange(start, min(start + self.block, len(self))))
        self._blocks[number] = _Block(cells.indptr.astype(np.int64), cells.indices, cells.data)
        return self._blocks[number]
