"""What Lightning calls during training and evaluation: each hook calls the function that does the work."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from typing_extensions import override

from vaekit.batch import Batch
from vaekit.graph.fold import Estimate
from vaekit.models.distributed import sync_baselines
from vaekit.models.held_priors import HeldPriors
from vaekit.models.metric_accumulator import MetricAccumulator, log_epoch, log_held_out, scheduled_values
from vaekit.models.parameter_groups import ParameterGroups
from vaekit.models.run_state import ends_epoch, restore_run_state, resume_epoch, store_run_state
from vaekit.models.step_times import StepTimes
from vaekit.models.training_setup import set_up_run, start_run

if TYPE_CHECKING:
    from torch.distributions import Distribution

    from vaekit.estimators import Estimator
    from vaekit.latents import Latent
    from vaekit.models.objectives import Objective
    from vaekit.models.vae_networks import VAENetworks


class TrainingHooks(pl.LightningModule):
    """Lightning's hooks of a VAE, and the state of its training.

    Attributes
    ----------
    metrics : MetricAccumulator
        Sums of the metrics over the training steps of the epoch.
    total_steps : float
        Number of training steps, which may be infinite.
    step_terms : dict[str, Tensor]
        Terms of the loss of the last training step, each ``[batch]``.
    gradient_norm : Tensor or None
        Norm of the gradient of the last training step, before clipping.
    held_priors : HeldPriors
        Priors that start during training.
    """

    objective: Objective
    networks: VAENetworks
    learning_rate: float
    weight_decay: float

    def __init__(self) -> None:
        super().__init__()
        self.metrics, self.total_steps = MetricAccumulator(), float("inf")
        self.step_terms: dict[str, Tensor] = {}
        self.gradient_norm: Tensor | None = None
        self.held_priors = HeldPriors({}, self.total_steps)
        self._run_state: dict[str, Any] = {}  # within an epoch, from the checkpoint of a run that is resumed

    @property
    @abstractmethod
    def latents(self) -> dict[str, Latent]:
        """The latent variables by name."""

    @property
    @abstractmethod
    def estimators(self) -> dict[str, Estimator]:
        """The gradient estimator of each latent."""

    @abstractmethod
    def loss(self, batch: Batch, kl_weight: float = 1.0, training: bool = False) -> Estimate:
        """Estimate the loss on a mini-batch."""

    @abstractmethod
    def posteriors(self, batch: Batch) -> dict[str, Distribution]:
        """Return q(z given x) of each latent."""

    def compute_step(self, batch: Batch, kl_weight: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of a training step, and its terms, those of the negative ELBO from discrete samples."""
        result = self.loss(batch, kl_weight, training=True)
        terms = self.step_terms = {name: value.detach() for name, value in result.terms.items()}
        if not all(estimator.unbiased_value for estimator in self.estimators.values()):
            terms = terms | torch.no_grad()(self.loss)(batch).terms  # relaxed values do not give a lower bound
        return result.total.mean(), terms

    @override
    def setup(self, stage: str) -> None:
        set_up_run(self, self.trainer, stage)

    @override
    def configure_callbacks(self) -> list[pl.Callback]:
        return [StepTimes()]

    @override
    def configure_optimizers(self) -> Any:
        self._groups = ParameterGroups.from_model(self.networks, self.parameters())
        return self._groups.configure_optimizers(self.learning_rate, self.weight_decay, self.trainer)

    @override
    def on_fit_start(self) -> None:
        self.total_steps = start_run(self, self.trainer)

    @override
    def on_train_start(self) -> None:
        resume_epoch(self, self.trainer, self.metrics, self._run_state)
        self.held_priors = HeldPriors(self.latents, self.total_steps)

    @override
    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        if self.held_priors:
            self.held_priors.start_due(self, self.trainer)
        for estimator in self.estimators.values():
            estimator.update_schedule(min(1.0, self.global_step / self.total_steps))

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        kl_weight = self.objective.kl_weight(self.global_step, self.total_steps)
        loss, terms = self.compute_step(batch, kl_weight)
        self.metrics.update(terms, {"loss": loss, "kl_weight": kl_weight, **scheduled_values(self.estimators)})
        return loss

    @override
    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.held_priors.drop_gradients()

    @override
    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        if gradient_clip_val:
            self.gradient_norm = self._groups.clip(gradient_clip_val, gradient_clip_algorithm)

    @override
    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        sync_baselines(self, self.trainer)
        if ends_epoch(self.trainer):  # before the callbacks' on_train_epoch_end, which reads the metrics
            log_epoch(self, self.metrics)

    @override
    def on_train_epoch_end(self) -> None:
        log_epoch(self, self.metrics)
        self.metrics.reset()

    @override
    def on_train_end(self) -> None:
        self.held_priors.warn_unfinished(self.trainer)

    @override
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        log_held_out(self, self._trainer, "val", batch, batch_idx)

    @override
    def test_step(self, batch: Batch, batch_idx: int) -> None:
        log_held_out(self, self._trainer, "test", batch, batch_idx)

    @override
    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        return {name: self.latents[name].summary(q) for name, q in self.posteriors(batch).items()}

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        store_run_state(checkpoint, self, self._trainer, self.metrics)

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._run_state = restore_run_state(checkpoint, self, self._trainer)
