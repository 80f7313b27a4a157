"""Results of mini-batches on several devices, by Lightning's ``predict``: each cell once, in order, in one process."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.strategies import DDPStrategy
from torch.utils.data import SequentialSampler
from tqdm.auto import tqdm
from typing_extensions import override

from vaekit._core.run_context import quiet
from vaekit.batch import Batch
from vaekit.data.dataset import BatchDataset, BatchIndexSampler, ResumableLoader, identity_collate
from vaekit.exceptions import ConfigError
from vaekit.models import VAE

TIMEOUT = timedelta(days=1)  # of a process that waits for another one


def check_devices(devices: int | None) -> None:
    """Check the number of devices before long work; None means the device of the model.

    Raises
    ------
    ConfigError
        If it is not positive, or exceeds the number of GPUs, or without a GPU that of the CPU's cores.
    """
    if devices is None:
        return
    if devices < 1:
        raise ConfigError(f"devices={devices} must be at least 1.")
    num_gpus, num_cores = torch.cuda.device_count(), os.cpu_count() or 1
    kind, count = ("GPUs", num_gpus) if num_gpus else ("CPU cores, and no GPU", num_cores)
    if devices > count:
        raise ConfigError(f"devices={devices}: this machine has {count} {kind}. Use at most {count} devices.")


def predict_on_devices(
    model: VAE,
    dataset: BatchDataset,
    step: Callable[[Batch, int], Any],
    consume: Callable[[int, Any], None],
    devices: int,
    batch_size: int,
    description: str,
) -> None:
    """Call a function for each mini-batch of a data set on several devices, and consume its results in order.

    With more than one device, Lightning starts the command once more per further device. Mini-batches are those of one
    device, and processes take them in turns. The first process receives the results of all.

    Parameters
    ----------
    model : VAE
        Trained model, which is moved to the device of each process.
    dataset : BatchDataset
        Cells.
    step : callable
        Function of a mini-batch on the device and the index of its first cell; its result can be pickled.
    consume : callable
        Function of the index of the first cell and the result; called in the first process only.
    devices, batch_size : int
        Number of devices, GPUs if there are any, and cells per mini-batch.
    description : str
        Name of the progress bar.
    """
    order = SequentialSampler(dataset)
    batches = BatchIndexSampler(order, batch_size, even=False, order=order)
    loader = ResumableLoader(dataset, batch_sampler=batches, collate_fn=identity_collate)
    results = _OrderedResults(consume, len(dataset), batch_size)
    with quiet():
        trainer = pl.Trainer(
            accelerator="auto",
            devices=devices,
            strategy="auto" if devices == 1 else DDPStrategy(timeout=TIMEOUT),
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            callbacks=[results],
        )
        is_first = trainer.is_global_zero
        with tqdm(total=len(dataset), desc=description, unit="cell", disable=not is_first) as results.bar:
            trainer.predict(_Steps(model, step, batch_size), loader, return_predictions=False)


class _Steps(pl.LightningModule):
    """Module whose prediction is a function of a mini-batch and the index of its first cell."""

    def __init__(self, model: VAE, step: Callable[[Batch, int], Any], batch_size: int) -> None:
        super().__init__()
        self.model, self.step, self.batch_size = model, step, batch_size

    @override
    def predict_step(self, batch: Batch, batch_idx: int) -> Any:
        if not len(batch.x):  # a process without a mini-batch in the last turn
            return None
        return self.step(batch, (batch_idx * self.trainer.world_size + self.trainer.global_rank) * self.batch_size)


class _OrderedResults(Callback):
    """Callback that passes the results of all processes to a function of the first one, in the order of the cells."""

    bar: Any

    def __init__(self, consume: Callable[[int, Any], None], num_cells: int, batch_size: int) -> None:
        self.consume, self.num_cells, self.batch_size = consume, num_cells, batch_size

    @override
    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        results: list[Any] | None = [outputs]
        if trainer.world_size > 1:
            results = [None] * trainer.world_size if trainer.is_global_zero else None
            torch.distributed.gather_object(outputs, results)
        for rank, result in enumerate(results or ()):
            start = (batch_idx * trainer.world_size + rank) * self.batch_size
            if start < self.num_cells:
                self.consume(start, result)
                self.bar.update(min(self.batch_size, self.num_cells - start))
