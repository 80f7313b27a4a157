"""What the datamodules share: lazy loading, splits, data loaders, and their state in a checkpoint."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerStatus
from torch import Tensor
from torch.utils.data import DataLoader, SequentialSampler

from vaekit._core.components import Component
from vaekit.batch import Batch, DataStatistics
from vaekit.data.dataset import BatchDataset, BatchIndexSampler, ResumableLoader, RowSubset, identity_collate
from vaekit.data.on_device import on_device
from vaekit.data.splits import SPLITS, check_fractions
from vaekit.exceptions import DataError, did_you_mean

Place = Callable[[BatchDataset], BatchDataset]


@dataclass(frozen=True)
class LoadedData:
    """Data in memory.

    Attributes
    ----------
    dataset
        All rows, in the order of the source.
    train_dataset
        The same rows as the training sees them (images may be binarized anew in each batch).
    split_indices
        Sorted int64 row numbers under 'train', 'val' and 'test'.
    features, covariates
        Columns of ``Batch.x`` and ``Batch.covariates``.
    mean
        Mean of ``x`` over the training rows, float32 ``[features]``.
    label_categories
        Names of the classes; empty where there are no labels.
    labels
        Class name of each row, object array ``[rows]``, None where unknown.
    fingerprint
        Hash of the source's content, whatever the split and the choice of features.
    source
        What the data are, in words.
    """

    dataset: BatchDataset
    train_dataset: BatchDataset
    split_indices: dict[str, Tensor]
    features: int
    covariates: int
    mean: Tensor
    label_categories: list[str]
    labels: np.ndarray
    fingerprint: str
    source: str


class DataModule(Component, pl.LightningDataModule, ABC):
    """A datamodule whose rows fit in memory; they are loaded when first needed.

    Loaders slice whole batches without workers. Their order comes from torch's global generator alone, so
    that ``seed_everything`` fixes it. Several processes share the rows of the loaders that Lightning asks for, each row
    once (:mod:`vaekit.data.ranks`).

    Parameters
    ----------
    batch_size
        Rows in a batch; of each process, where there are several.
    split
        Fractions of train, val and test, or None where the data have a split of their own.
    seed
        Seed of the split.
    """

    kind: ClassVar[str]

    def __init__(self, batch_size: int, split: tuple[float, float, float] | None, seed: int) -> None:
        super().__init__()
        if batch_size < 1:
            raise DataError(f"batch_size={batch_size} must be at least 1")
        if not 0 <= seed < 2**32:
            raise DataError(f"seed={seed} must lie in 0..{2**32 - 1}")
        self.batch_size = batch_size
        self.split = None if split is None else check_fractions(split)
        self.seed = seed
        self._loaded: Any = None
        self._state: dict[str, Any] | None = None
        self._on_device: dict[tuple[BatchDataset, torch.device], BatchDataset] = {}
        # Written to checkpoints by Lightning, but not to loggers: the keys would collide with the model's.
        self._set_hparams(self.config["init_args"])
        self._log_hyperparams = False

    @abstractmethod
    def _load(self, state: Mapping[str, Any] | None) -> LoadedData:
        """Read the source; with a ``state``, as it was when the state was taken."""

    @property
    def loaded(self) -> Any:
        """The data in memory, a :class:`LoadedData`; read at the first access."""
        if self._loaded is None:
            self._loaded = self._load(self._state)
        return self._loaded

    @property
    def dataset(self) -> BatchDataset:
        """All rows, in the order of the source."""
        return self.loaded.dataset

    @property
    def features(self) -> int:
        """Columns of ``Batch.x``."""
        return self.loaded.features

    @property
    def covariates(self) -> int:
        """Columns of ``Batch.covariates``; 0 where there are none."""
        return self.loaded.covariates

    @property
    def mean(self) -> Tensor:
        """Mean of ``x`` over the training rows, float32 ``[features]``."""
        return self.loaded.mean

    @property
    def statistics(self) -> DataStatistics:
        """What a model starts from: the mean, and what else is known of the training rows."""
        return DataStatistics(self.mean)

    @property
    def example(self) -> Batch:
        """The first rows, at most 256: for checks before training."""
        return self.dataset.__getitems__(list(range(min(len(self.dataset), 256))))

    @property
    def split_indices(self) -> dict[str, Tensor]:
        """Sorted int64 row numbers under 'train', 'val' and 'test'."""
        return self.loaded.split_indices

    @property
    def label_categories(self) -> list[str]:
        """Names of the classes, numbered as in ``Batch.label``; empty where there are no labels."""
        return self.loaded.label_categories

    @property
    def labels(self) -> np.ndarray:
        """Class name of each row, object array ``[rows]``, None where unknown."""
        return self.loaded.labels

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that tell the source's content from any other."""
        return self.loaded.fingerprint

    @property
    def source(self) -> str:
        """What the data are, in words: a path, say."""
        return self.loaded.source

    @property
    def description(self) -> str:
        """One line on source, size and split."""
        sizes = "/".join(str(len(self.split_indices[name])) for name in SPLITS)
        return f"{self.source}: {self._size()}, train/val/test {sizes}"

    @abstractmethod
    def _size(self) -> str: ...

    def setup(self, stage: str | None = None) -> None:
        """Load the data (Lightning's hook)."""
        _ = self.loaded

    def dataloader(self, split: str, batch_size: int | None = None, shuffle: bool = False) -> DataLoader:
        """Return a loader of whole batches over one split.

        Parameters
        ----------
        split
            'train', 'val', 'test', or 'all' for every row in the order of the source.
        batch_size
            Rows in a batch; None for the datamodule's own.
        shuffle
            Whether the rows come in a new random order each epoch.

        Raises
        ------
        DataError
            If there is no such split.
        """
        if split not in (*SPLITS, "all"):
            raise DataError(f"split={split!r} not found. {did_you_mean(split, (*SPLITS, 'all'))}")
        return self._loader(split, batch_size, shuffle, lambda dataset: dataset)

    def _loader(self, split: str, batch_size: int | None, shuffle: bool, place: Place) -> DataLoader:
        dataset = place(self.loaded.train_dataset if split == "train" else self.dataset)
        rows = torch.arange(len(dataset)) if split == "all" else self.split_indices[split]
        order = dataset.random_order(rows) if shuffle else SequentialSampler(rows)
        if split != "all":
            dataset = RowSubset(dataset, rows)
        batches = BatchIndexSampler(order, batch_size or self.batch_size, even=shuffle, order=order)
        return ResumableLoader(dataset, batch_sampler=batches, collate_fn=identity_collate)

    def _placed(self, dataset: BatchDataset) -> BatchDataset:
        """Return the data set on the GPU of a trainer at work, where there is one with room; else as it is."""
        trainer = self.trainer
        if trainer is None or trainer.state.status != TrainerStatus.RUNNING:
            return dataset
        key = (dataset, trainer.strategy.root_device)
        if key not in self._on_device:
            self._on_device[key] = on_device(*key)
        return self._on_device[key]

    def teardown(self, stage: str) -> None:
        """Give the device's memory back (Lightning's hook)."""
        self._on_device.clear()

    def train_dataloader(self) -> DataLoader:
        """Training rows, each once an epoch, in random order; on a trainer's GPU, as the next three, if it has room."""
        return self._loader("train", None, True, self._placed)

    def val_dataloader(self) -> DataLoader:
        """Rows held out for choices made while training."""
        return self._loader("val", None, False, self._placed)

    def test_dataloader(self) -> DataLoader:
        """Rows held out for the final evaluation."""
        return self._loader("test", None, False, self._placed)

    def predict_dataloader(self) -> DataLoader:
        """All rows, in the order of the source."""
        return self._loader("all", None, False, self._placed)

    def state_dict(self) -> dict[str, Any]:
        """Return split, names and fingerprint as plain data that loads with ``weights_only=True``."""
        return {
            "config": self.config,
            "source": self.source,
            "fingerprint": self.fingerprint,
            "num_rows": len(self.dataset),
            "split_indices": dict(self.split_indices),
            "label_categories": list(self.label_categories),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the split and names of a checkpoint, whether the data were loaded before or not.

        Raises
        ------
        DataError
            If the state is no state of this class, or belongs to other data (if these are not loaded yet,
            then at their first use).
        """
        if missing := [key for key in self._state_keys() if key not in state]:
            raise DataError(f"the checkpoint's {type(self).__name__} state lacks {', '.join(map(repr, missing))}")
        if self._loaded is not None:
            self._loaded = self._load(state)
        self._state = dict(state)

    def _state_keys(self) -> tuple[str, ...]:
        return ("fingerprint", "num_rows", "split_indices", "label_categories")


def check_fingerprint(found: str, source: str, state: Mapping[str, Any] | None) -> None:
    """Check that the data are those of a checkpoint's ``state``.

    Raises
    ------
    DataError
        If they are not.
    """
    if state is not None and found != state["fingerprint"]:
        raise DataError(
            f"the checkpoint was trained on {state.get('source', 'other data')} with fingerprint "
            f"{state['fingerprint']} ({state['num_rows']} rows), and {source} has fingerprint {found}: give "
            "it the same data, layer included"
        )


def fingerprint(arrays: Iterable[np.ndarray], names: Iterable[Iterable[str]] = ()) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of arrays and lists of names, the same on every machine."""
    digest = hashlib.sha256()
    for array in arrays:
        portable = {"f": "<f4", "i": "<i8"}.get(array.dtype.kind, array.dtype)
        digest.update(str(array.shape).encode())
        for start in range(0, len(array), 2**20):  # in parts, as the indices are widened
            digest.update(np.ascontiguousarray(array[start : start + 2**20], dtype=portable).data)
    for group in names:
        digest.update("\n".join(group).encode() + b"\0")
    return digest.hexdigest()[:16]


def restored_split(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return a checkpoint's row numbers of each split."""
    return {name: torch.as_tensor(state["split_indices"][name], dtype=torch.int64) for name in SPLITS}
