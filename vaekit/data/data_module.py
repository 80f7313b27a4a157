"""Base class of the data modules: lazy loading, splits, data loaders and checkpoint state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerStatus
from torch import Tensor
from torch.utils.data import DataLoader, SequentialSampler
from typing_extensions import override

from vaekit._core import memory_budget
from vaekit._core.components import Component
from vaekit.batch import Batch, DataStatistics
from vaekit.data.dataset import BatchDataset, BatchIndexSampler, ResumableLoader, RowSubset, identity_collate
from vaekit.data.figure_columns import FigureColumns, check_color
from vaekit.data.fingerprint import fingerprint
from vaekit.data.loaded_data import LoadedData, from_loaded
from vaekit.data.splits import SPLITS, check_fractions
from vaekit.exceptions import DataError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd


class DataModule(Component, pl.LightningDataModule, ABC):
    """A data module that loads its data at the first use.

    Loaders slice whole mini-batches without workers. Their order comes from torch's global generator alone, so that
    ``seed_everything`` fixes it. In a distributed run, the ranks share the observations, each exactly once
    (:mod:`vaekit.data.ranks`).

    Parameters
    ----------
    batch_size : int
        Observations per mini-batch and rank.
    split : tuple of float or None
        Fractions of train, val and test, or None if the data have an official split.
    seed : int
        Seed of the split.
    """

    kind: ClassVar[str]

    def __init__(self, batch_size: int, split: tuple[float, float, float] | None, seed: int) -> None:
        super().__init__()
        if batch_size < 1:
            raise DataError(f"batch_size={batch_size} must be at least 1.")
        if not 0 <= seed < 2**32:
            raise DataError(f"seed={seed} must lie in 0..{2**32 - 1}.")
        self.batch_size = batch_size
        self.split = None if split is None else check_fractions(split)
        self.seed = seed
        self._loaded: Any = None
        self._state: dict[str, Any] | None = None
        self._device_copies: dict[tuple[BatchDataset, torch.device], BatchDataset] = {}
        # Lightning writes them to checkpoints, but not to loggers, where keys would collide with the model's.
        self._set_hparams(self.config["init_args"])
        self._log_hyperparams = False

    @abstractmethod
    def _load(self, state: Mapping[str, Any] | None) -> LoadedData:
        """Read the source, with the split and names of a ``state`` if there is one."""

    @property
    def loaded(self) -> Any:
        """The :class:`LoadedData`, read at the first access."""
        if self._loaded is None:
            self._loaded = self._load(self._state)
        return self._loaded

    dataset: BatchDataset = from_loaded("dataset", "All observations, in the order of the source.")
    features: int = from_loaded("features", "Number of columns of ``Batch.x``.")
    covariates: int = from_loaded("covariates", "Number of columns of ``Batch.covariates``.")
    mean: Tensor = from_loaded("mean", "Mean of ``x`` over the training observations, float32 ``[features]``.")
    split_indices: dict[str, Tensor] = from_loaded(
        "split_indices", "Sorted int64 row indices under 'train', 'val' and 'test'."
    )
    label_categories: list[str] = from_loaded(
        "label_categories", "Names of the classes, in the order of ``Batch.label``; empty without labels."
    )
    labels: np.ndarray = from_loaded(
        "labels", "Class name of each observation, object array ``[rows]``, None if unknown."
    )
    observed_categories: dict[str, list[str]] = from_loaded(
        "observed_categories",
        "Names of the categories of ``Batch.observed_label`` by their ``observed_key``; empty without one. Argument "
        "``labels`` of a model.",
    )
    observed_labels: np.ndarray | None = from_loaded(
        "observed_labels",
        "Known category of each observation of any split, int64 ``[rows]``, -1 if unknown; None without an "
        "``observed_key``.",
    )

    @property
    def label_fingerprint(self) -> str | None:
        """Hash of the known categories of all observations; None without an ``observed_key``."""
        return None if self.observed_labels is None else fingerprint([self.observed_labels])

    fingerprint: str = from_loaded("fingerprint", "Hash of the source's content, 16 hexadecimal digits.")
    source: str = from_loaded("source", "Name of the data in messages, such as a path.")

    @property
    def statistics(self) -> DataStatistics:
        """Statistics of the training observations from which a model is initialized."""
        return DataStatistics(self.mean)

    @property
    def example(self) -> Batch:
        """The first 256 observations, or fewer, for checks before training."""
        return self.dataset.__getitems__(list(range(min(len(self.dataset), 256))))

    def draw_training(self, count: int) -> Batch:
        """Return random training observations, each at most once: ``count`` of them, or all if there are fewer.

        They depend on torch's seed, whose RNG state does not change.
        """
        rows = self.split_indices["train"]
        generator = torch.Generator().manual_seed(torch.initial_seed())
        chosen = rows[torch.randperm(len(rows), generator=generator)[:count]].sort().values
        with torch.random.fork_rng(devices=[]):  # random binarization
            return self.loaded.train_dataset.__getitems__(chosen)

    @property
    def description(self) -> str:
        """One line on source, size and split."""
        sizes = "/".join(str(len(self.split_indices[name])) for name in SPLITS)
        return f"{self.source}: {self._size()}, train/val/test {sizes}"

    @abstractmethod
    def _size(self) -> str: ...

    def figure_columns(self, color: Sequence[str] | str | None = None) -> FigureColumns:
        """Return the columns that color the observations in figures: the labels, if there are any.

        Parameters
        ----------
        color : sequence of str, str or None
            Further columns.

        Raises
        ------
        DataError
            If a column does not exist, or is named twice.
        """
        if keys := check_color(color):
            raise DataError(f"color={keys[0]!r}: {self.source} has labels only. Omit color.")
        return FigureColumns({} if self.label_column is None else {"label": self.label_column}, {}, {})

    @property
    def label_column(self) -> pd.Categorical | None:
        """Label of each observation; None without labels."""
        import pandas as pd

        return pd.Categorical(self.labels, self.label_categories) if self.label_categories else None

    @override
    def setup(self, stage: str | None = None) -> None:
        _ = self.loaded

    def dataloader(self, split: str, batch_size: int | None = None, shuffle: bool = False) -> DataLoader:
        """Return a loader of one split.

        Parameters
        ----------
        split : str
            'train', 'val', 'test', or 'all' for all observations in the order of the source.
        batch_size : int or None
            Observations per mini-batch; None means the data module's batch size.
        shuffle : bool
            Whether each epoch has a new random order.

        Raises
        ------
        DataError
            If the split does not exist.
        """
        if split not in (*SPLITS, "all"):
            raise DataError(f"split={split!r} is unknown. {did_you_mean(split, (*SPLITS, 'all'))}")
        return self._loader(split, batch_size, shuffle, lambda dataset: dataset)

    def _loader(
        self, split: str, batch_size: int | None, shuffle: bool, place: Callable[[BatchDataset], BatchDataset]
    ) -> DataLoader:
        dataset = place(self.loaded.train_dataset if split == "train" else self.dataset)
        rows = torch.arange(len(dataset)) if split == "all" else self.split_indices[split]
        order = dataset.random_order(rows) if shuffle else SequentialSampler(rows)
        if split != "all":
            dataset = RowSubset(dataset, rows)
        batches = BatchIndexSampler(order, batch_size or self.batch_size, even=shuffle, order=order)
        return ResumableLoader(dataset, batch_sampler=batches, collate_fn=identity_collate)

    def _place(self, dataset: BatchDataset) -> BatchDataset:
        """Return the data set on the GPU of a running trainer if it fits there.

        The order of the rows is still drawn on the CPU, so that a seed gives the same mini-batches on both devices.
        """
        trainer = self.trainer
        if trainer is None or trainer.state.status != TrainerStatus.RUNNING:
            return dataset
        key = (dataset, trainer.strategy.root_device)
        if key not in self._device_copies:
            self._device_copies[key] = on_device(*key)
        return self._device_copies[key]

    @override
    def teardown(self, stage: str) -> None:
        self._device_copies.clear()

    @override
    def train_dataloader(self) -> DataLoader:
        return self._loader("train", None, True, self._place)

    @override
    def val_dataloader(self) -> DataLoader:
        return self._loader("val", None, False, self._place)

    @override
    def test_dataloader(self) -> DataLoader:
        return self._loader("test", None, False, self._place)

    @override
    def predict_dataloader(self) -> DataLoader:
        return self._loader("all", None, False, self._place)

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return split, names and fingerprint as plain data that load with ``weights_only=True``."""
        return {
            "config": self.config,
            "source": self.source,
            "fingerprint": self.fingerprint,
            "num_rows": len(self.dataset),
            "split_indices": dict(self.split_indices),
            "label_categories": list(self.label_categories),
            "observed_categories": {key: list(names) for key, names in self.observed_categories.items()},
            "label_fingerprint": self.label_fingerprint,
        }

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume with the split and names of a checkpoint, whether or not the data are loaded already.

        Raises
        ------
        DataError
            If the state belongs to another class or to other data; if the data are not loaded yet, at their first use.
        """
        if missing := [key for key in self._state_keys() if key not in state]:
            raise DataError(f"{type(self).__name__}: the checkpoint's state lacks {', '.join(map(repr, missing))}.")
        if self._loaded is not None:
            self._loaded = self._load(state)
        self._state = dict(state)

    def _state_keys(self) -> tuple[str, ...]:
        return ("fingerprint", "num_rows", "split_indices", "label_categories")


def on_device(dataset: BatchDataset, device: torch.device) -> BatchDataset:
    """Return a copy on a GPU if it takes at most half of the free memory there, else the data set itself."""
    fits = dataset.num_bytes <= memory_budget.FREE_FRACTION * memory_budget.free_memory(device)
    return dataset.copy_to(device) if device.type == "cuda" and fits else dataset


def restore_split(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the row indices of each split of a checkpoint."""
    return {name: torch.as_tensor(state["split_indices"][name], dtype=torch.int64) for name in SPLITS}
