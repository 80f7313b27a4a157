"""Training by SVRG or SAGA instead of the model's optimizer."""

from __future__ import annotations

import contextlib
import functools
from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from typing_extensions import override

from vaekit.callbacks.trainer_requirements import require_plain_steps
from vaekit.exceptions import ConfigError
from vaekit.optim import SAGA, SVRG, FixedBatchSampler, RNGState

if TYPE_CHECKING:
    from vaekit.models import VAE


class _VarianceReduction(Callback):
    """Base class of the callbacks, which replace the optimizer and its schedule, and correct gradients.

    The correction precedes clipping and the later callbacks of the list. See :class:`SVRGTraining` for the parameters.
    """

    optimizer: Any

    def __init__(self, lr: float, momentum: float, weight_decay: float) -> None:
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self._step: Any = None  # mini-batch, its index, and RNG state and buffers at the start of the step

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        require_plain_steps(type(self).__name__, trainer)

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if len(trainer.optimizers) != 1 or not pl_module.automatic_optimization:
            raise ConfigError(
                f"{type(self).__name__}: the model has {len(trainer.optimizers)} optimizers and "
                f"automatic_optimization={pl_module.automatic_optimization}. It must have one optimizer and use it "
                "automatically."
            )
        groups = [
            {"params": group["params"], "weight_decay": self.weight_decay if group.get("weight_decay") else 0.0}
            for group in trainer.optimizers[0].param_groups
        ]
        self.optimizer = self._make_optimizer(trainer, groups)
        trainer.optimizers = [self.optimizer]
        trainer.strategy.lr_scheduler_configs = []  # they schedule the previous optimizer

    @override
    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._step = batch, batch_idx, self.optimizer.rng_state(), _copy_buffers(pl_module)

    @override
    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, optimizer: Any) -> None:
        batch, batch_idx, rng_state, buffers = self._step
        with _buffers_set_to(pl_module, buffers):
            self._correct(trainer, pl_module, batch, batch_idx, rng_state)
        self._step = None

    @abstractmethod
    def _make_optimizer(self, trainer: pl.Trainer, groups: list[dict[str, Any]]) -> Any:
        """Return the optimizer for parameter groups."""

    @abstractmethod
    def _correct(self, trainer: pl.Trainer, model: Any, batch: Any, batch_idx: int, rng_state: RNGState) -> None:
        """Correct the gradients in ``.grad``."""


class SVRGTraining(_VarianceReduction):
    """Callback that trains a VAE by :class:`vaekit.optim.SVRG`, with common latent samples and dropout masks.

    The full gradient is computed at the start of an epoch from ``num_passes`` passes over the training data, one
    mini-batch at a time. The gradient of the snapshot uses the buffers from before the step, such as moving averages of
    costs. A KL weight or temperature that changes between snapshots makes the full gradient outdated, which causes a
    bias until the next snapshot.

    In the list of callbacks, it must precede those that use the gradient, such as
    :class:`vaekit.callbacks.GradientNoiseMonitor`.

    Parameters
    ----------
    lr, momentum : float
        As for ``torch.optim.SGD``, without a schedule.
    weight_decay : float
        Weight decay of the parameters that the model's optimizer decays (weight matrices).
    every_n_epochs : int
        Number of epochs between snapshots.
    num_passes : int
        Number of passes over the data per full gradient, each with other samples of the latents.
    seed : int
        Seed of these samples.

    Raises
    ------
    ConfigError
        If an argument is out of its range; at the start of training, if it is distributed, accumulates gradients, or
        has mixed precision.

    Examples
    --------
    >>> import pytorch_lightning as pl, vaekit
    >>> training = vaekit.callbacks.SVRGTraining(lr=0.01)
    >>> pl.Trainer(max_epochs=2, callbacks=[training], logger=False, enable_progress_bar=False).fit(model, data)
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
        for name, value in (("every_n_epochs", every_n_epochs), ("num_passes", num_passes)):
            if value < 1:
                raise ConfigError(f"SVRGTraining: {name}={value} must be at least 1.")
        super().__init__(lr, momentum, weight_decay)
        self.every_n_epochs, self.num_passes, self.seed = every_n_epochs, num_passes, seed

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if trainer.current_epoch % self.every_n_epochs == 0 or not self.optimizer.ready:
            to_device = functools.partial(trainer.strategy.batch_to_device, dataloader_idx=0)
            with _buffers_set_to(pl_module, _copy_buffers(pl_module)):
                self.optimizer.snapshot(
                    lambda batch: _backward(trainer, pl_module, to_device(batch)),
                    trainer.train_dataloader,
                    self.num_passes,
                )

    @override
    def _make_optimizer(self, trainer: pl.Trainer, groups: list[dict[str, Any]]) -> SVRG:
        return SVRG(groups, self.lr, self.momentum, seed=self.seed)

    @override
    def _correct(self, trainer: pl.Trainer, model: Any, batch: Any, batch_idx: int, rng_state: RNGState) -> None:
        self.optimizer.correct(lambda: _backward(trainer, model, batch), rng_state)


class SAGATraining(_VarianceReduction):
    """Callback that trains a model by :class:`vaekit.optim.SAGA`, with a table of the gradient of each mini-batch.

    The training data are split once into fixed mini-batches (:class:`vaekit.optim.FixedBatchSampler`), and each epoch
    has them in a new order. The first step rejects a random loss: the latents must be summed over (``Enumerate``), the
    dropout must be 0, and the binarization of images ``fixed`` or ``threshold``.

    Parameters
    ----------
    lr, momentum, weight_decay
        As for :class:`SVRGTraining`.
    max_bytes : int
        Maximum size of the table in bytes. It has as many copies of the parameters as there are mini-batches.
    seed : int
        Seed of the split.

    Raises
    ------
    ConfigError
        As for :class:`SVRGTraining`; if the table exceeds ``max_bytes``, or the loader does not have a batch sampler.
    EstimatorError
        If the loss is random.

    Examples
    --------
    >>> import pytorch_lightning as pl, vaekit
    >>> likelihood = vaekit.likelihoods.NegativeBinomial()
    >>> exact = vaekit.DiscreteVAE(data.features, likelihood, data.covariates, variables=1)  # a sum, without samples
    >>> training = vaekit.callbacks.SAGATraining(lr=0.01)
    >>> pl.Trainer(max_epochs=2, callbacks=[training], logger=False, enable_progress_bar=False).fit(exact, data)
    """

    def __init__(
        self, lr: float, momentum: float = 0.0, weight_decay: float = 0.0, max_bytes: int = 2**30, seed: int = 0
    ) -> None:
        super().__init__(lr, momentum, weight_decay)
        self.max_bytes, self.seed = max_bytes, seed

    @override
    def _make_optimizer(self, trainer: pl.Trainer, groups: list[dict[str, Any]]) -> SAGA:
        _ = trainer.estimated_stepping_batches  # creates the loader
        loader = trainer.train_dataloader
        batches: Any = getattr(loader, "batch_sampler", None)
        if getattr(batches, "sampler", None) is None or getattr(batches, "drop_last", False):
            raise ConfigError(
                f"SAGATraining: the mini-batches of a {type(loader).__name__} cannot be fixed. Use a DataLoader with "
                "batch_size or a BatchSampler, and without drop_last."
            )
        self._sampler = FixedBatchSampler(len(batches.sampler), batches.batch_size, self.seed)
        batches.sampler = self._sampler
        return SAGA(groups, self.lr, self.momentum, batch_sizes=self._sampler.sizes, max_bytes=self.max_bytes)

    @override
    def _correct(self, trainer: pl.Trainer, model: Any, batch: Any, batch_idx: int, rng_state: RNGState) -> None:
        self.optimizer.correct(self._sampler.order[batch_idx], rng_state)


def _backward(trainer: pl.Trainer, model: VAE, batch: Any) -> Tensor:
    """Compute the training loss at the present step and its gradient, without logging."""
    kl_weight = model.objective.kl_weight(trainer.global_step, trainer.estimated_stepping_batches)
    loss = model.loss(batch, kl_weight, training=True).total.mean()
    loss.backward()
    return loss.detach()


@contextlib.contextmanager
def _buffers_set_to(module: torch.nn.Module, values: list[Tensor]) -> Iterator[None]:
    """Set the buffers of a module, and restore them on exit."""
    current = _copy_buffers(module)
    _set_buffers(module, values)
    try:
        yield
    finally:
        _set_buffers(module, current)


def _copy_buffers(module: torch.nn.Module) -> list[Tensor]:
    return [buffer.clone() for buffer in module.buffers()]


def _set_buffers(module: torch.nn.Module, values: list[Tensor]) -> None:
    for buffer, value in zip(module.buffers(), values, strict=True):
        buffer.copy_(value)
