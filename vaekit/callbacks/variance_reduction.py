"""Training by SVRG or SAGA: callbacks that put these in the place of a model's optimizer."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from vaekit.exceptions import ConfigError
from vaekit.optim import SAGA, SVRG, FixedBatchSampler, RNGState

if TYPE_CHECKING:
    from vaekit.models import VAE


class _FiniteSum(Callback):
    """What both callbacks share: the model's optimizer and its schedule give way, and gradients are corrected.

    The correction comes before clipping and before the callbacks that stand later in the list.

    Parameters
    ----------
    lr, momentum
        As for ``torch.optim.SGD``; constant in time.
    weight_decay
        Likewise, of the parameters that the model's own optimizer decays.

    Raises
    ------
    ConfigError
        At the start of training, if it is distributed, accumulates gradients, or has a mixed precision.
    """

    optimizer: Any

    def __init__(self, lr: float, momentum: float, weight_decay: float) -> None:
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self._before: Any = None  # the random state and the buffers that the step began with

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what the correction does not fit (Lightning's hook)."""
        name = type(self).__name__
        if trainer.world_size > 1:
            raise ConfigError(f"{name}: training on {trainer.world_size} devices; it works on one: trainer.devices=1")
        if trainer.accumulate_grad_batches != 1:
            raise ConfigError(
                f"{name}: accumulate_grad_batches is {trainer.accumulate_grad_batches}; a step corrects one "
                "mini-batch: make it larger instead (batch_size)"
            )
        if trainer.precision != "32-true":
            raise ConfigError(f"{name}: precision is {trainer.precision}; 32-true is needed")

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the optimizer in place, before a checkpoint's state comes (Lightning's hook)."""
        if len(trainer.optimizers) != 1 or not pl_module.automatic_optimization:
            raise ConfigError(
                f"{type(self).__name__}: the model has {len(trainer.optimizers)} optimizers, automatic optimization "
                f"{pl_module.automatic_optimization}; exactly one is needed, used automatically"
            )
        groups = [
            {"params": group["params"], "weight_decay": self.weight_decay if group.get("weight_decay") else 0.0}
            for group in trainer.optimizers[0].param_groups
        ]
        self.optimizer = self._make(trainer, groups)
        trainer.optimizers = [self.optimizer]
        trainer.strategy.lr_scheduler_configs = []  # they move the rate of the optimizer that is gone

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Note what the step begins with (Lightning's hook)."""
        self._before = batch, batch_idx, self.optimizer.random_state(), _Buffers(pl_module)

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, optimizer: Any) -> None:
        """Correct the gradient (Lightning's hook, before clipping)."""
        batch, batch_idx, random_state, buffers = self._before
        with buffers.replayed():
            self._correct(trainer, pl_module, batch, batch_idx, random_state)
        self._before = None

    @abstractmethod
    def _make(self, trainer: pl.Trainer, groups: list[dict[str, Any]]) -> Any:
        """Return the optimizer of some parameter groups."""

    @abstractmethod
    def _correct(self, trainer: pl.Trainer, model: Any, batch: Any, batch_idx: int, random_state: RNGState) -> None:
        """Correct the gradient in ``.grad``."""


class SVRGTraining(_FiniteSum):
    """Trains a VAE by :class:`vaekit.optim.SVRG`, with the latents' draws and the dropout masks in common.

    The full gradient is worked out at the start of an epoch by one pass (or ``draws`` of them) over the loader of the
    training data, mini-batch by mini-batch. Buffers that a step changes (moving averages of costs) are set back for the
    snapshot's gradient. What changes within an inner loop other than the parameters (a KL weight that warms up, a
    temperature) leaves the full gradient a little behind: a bias, until the next snapshot.

    In the list of callbacks it comes before those that look at the gradient, :class:`GradientNoiseMonitor` for one.

    Parameters
    ----------
    lr, momentum
        As for ``torch.optim.SGD``; constant in time.
    weight_decay
        Likewise, of the parameters that the model's own optimizer decays (weight matrices).
    every_n_epochs
        Epochs from one snapshot to the next.
    num_passes
        Passes over the data for the full gradient, each with other draws of the latents.
    seed
        Of these draws.

    Raises
    ------
    ConfigError
        If a number is out of its range; at the start of training, if it is distributed, accumulates gradients, or has
        a mixed precision.
    """

    def __init__(
        self,
        lr: float,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        every_n_epochs: int = 1,
        num_passes: int = 1,
        seed: int = 0,
    ) -> None:
        if every_n_epochs < 1 or num_passes < 1:
            raise ConfigError(
                f"SVRGTraining: every_n_epochs is {every_n_epochs} and num_passes {num_passes}; both must be at least 1"
            )
        super().__init__(lr, momentum, weight_decay)
        self.every_n_epochs, self.num_passes, self.seed = every_n_epochs, num_passes, seed

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Take a snapshot (Lightning's hook)."""
        if trainer.current_epoch % self.every_n_epochs == 0 or not self.optimizer.ready:
            batches = _OnDevice(trainer, trainer.train_dataloader)
            with _Buffers(pl_module).replayed():
                self.optimizer.snapshot(lambda batch: _loss(trainer, pl_module, batch), batches, self.num_passes)

    def _make(self, trainer: pl.Trainer, groups: list[dict[str, Any]]) -> SVRG:
        return SVRG(groups, self.lr, self.momentum, seed=self.seed)

    def _correct(self, trainer: pl.Trainer, model: Any, batch: Any, batch_idx: int, random_state: RNGState) -> None:
        self.optimizer.correct(lambda: _loss(trainer, model, batch), random_state)


class SAGATraining(_FiniteSum):
    """Trains a model by :class:`vaekit.optim.SAGA`, with a table of the gradient of each mini-batch.

    The rows of the training data are parted into mini-batches once and for all (:class:`vaekit.optim.FixedBatchSampler`),
    which each epoch takes in a new order. A loss with noise of its own is refused at the first step: the latents must
    be summed over (``Enumerate``) and the dropout be 0, and images be binarized by ``fixed`` or ``threshold``.

    Parameters
    ----------
    lr, momentum, weight_decay
        As for :class:`SVRGTraining`.
    max_bytes
        Bytes that the table may take: as many times the parameters as there are mini-batches.
    seed
        Of the partition.

    Raises
    ------
    ConfigError
        As for :class:`SVRGTraining`; if the table is over the budget, or the loader has no batch sampler.
    EstimatorError
        If the loss is random.
    """

    def __init__(
        self, lr: float, momentum: float = 0.0, weight_decay: float = 0.0, max_bytes: int = 2**30, seed: int = 0
    ) -> None:
        super().__init__(lr, momentum, weight_decay)
        self.max_bytes, self.seed = max_bytes, seed

    def _make(self, trainer: pl.Trainer, groups: list[dict[str, Any]]) -> SAGA:
        _ = trainer.estimated_stepping_batches  # makes the loader
        loader = trainer.train_dataloader
        batches: Any = getattr(loader, "batch_sampler", None)
        if getattr(batches, "sampler", None) is None or getattr(batches, "drop_last", False):
            raise ConfigError(
                f"SAGATraining: the training data come from a {type(loader).__name__} whose mini-batches cannot be "
                "fixed; a DataLoader with a batch_size (or a BatchSampler) and without drop_last is needed"
            )
        self._partition = FixedBatchSampler(len(batches.sampler), batches.batch_size, self.seed)
        batches.sampler = self._partition
        return SAGA(groups, self.lr, self.momentum, batch_sizes=self._partition.sizes, max_bytes=self.max_bytes)

    def _correct(self, trainer: pl.Trainer, model: Any, batch: Any, batch_idx: int, random_state: RNGState) -> None:
        self.optimizer.correct(self._partition.order[batch_idx], random_state)


def _loss(trainer: pl.Trainer, model: VAE, batch: Any) -> torch.Tensor:
    """Work out what a training step of this moment minimises, and its gradient; nothing is logged."""
    kl_weight = model.objective.kl_weight(trainer.global_step, trainer.estimated_stepping_batches)
    loss = model.loss(batch, kl_weight, training=True).total.mean()
    loss.backward()
    return loss.detach()


class _OnDevice:
    """The batches of a loader, on the device of the training; can be gone through again and again."""

    def __init__(self, trainer: pl.Trainer, loader: Any) -> None:
        self._trainer, self._loader = trainer, loader

    def __iter__(self) -> Iterator[Any]:
        return (self._trainer.strategy.batch_to_device(batch, dataloader_idx=0) for batch in self._loader)


class _Buffers:
    """Copies of a module's buffers."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._module = module
        self._values = [buffer.clone() for buffer in module.buffers()]

    @contextlib.contextmanager
    def replayed(self) -> Iterator[None]:
        """Set the buffers to the copies, and afterwards to what they were before."""
        now = _Buffers(self._module)
        self._put()
        try:
            yield
        finally:
            now._put()

    def _put(self) -> None:
        for buffer, value in zip(self._module.buffers(), self._values, strict=True):
            buffer.copy_(value)
