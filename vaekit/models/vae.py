"""The variational autoencoder as a Lightning module: composition of parts, with no variants of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor
from torch.distributions import Distribution

from vaekit._core.components import Component
from vaekit._core.threads import keep_threads
from vaekit.batch import Batch
from vaekit.estimators import Estimator
from vaekit.exceptions import ConfigError
from vaekit.graph.fold import Estimate
from vaekit.latents import Latent
from vaekit.likelihoods import Likelihood
from vaekit.models.distributed import fork_rng_for_batch, seed_rank, sync_baselines
from vaekit.models.loss import compute_loss, evaluation_estimator
from vaekit.models.metric_accumulator import MetricAccumulator, mean_terms, no_terms
from vaekit.models.objectives import ELBO, Objective
from vaekit.models.parameter_groups import (
    ParameterGroups,
    check_precision,
    cosine_schedule,
    match_precision,
    settle_accelerators,
)
from vaekit.models.regularizers import Regularizer
from vaekit.models.resume import check_same_features
from vaekit.models.run_state import accept, resume, store
from vaekit.models.vae_networks import VAENetworks
from vaekit.models.weight_memory import Budget
from vaekit.networks import Network

TRUE_BOUND = ELBO()


class VAE(Component, pl.LightningModule):
    r"""A variational autoencoder made of an encoder, latents, a decoder, a likelihood and an objective.

    Each training step minimises

    .. math:: E_{q(z | x)}\Big[-\log p(x | z) + \beta_t \sum_l \mathrm{KL}_l\Big]

    through :func:`vaekit.expectation`, each latent by its own estimator.

    Parameters
    ----------
    features
        Observed variables; comes from the data.
    encoder, decoder
        Networks; their input sizes are worked out here.
    latents
        Latent variables by name. One named as the parent of another acts through that one's prior, or through its
        posterior too: see :class:`vaekit.latents.Latent`.
    likelihood
        Distribution of the observations.
    covariates
        Width of the known covariates; comes from the data.
    objective
        What is maximised; by default the evidence lower bound.
    learning_rate
        Of Adam; it falls to 0 along a cosine over all steps, where their number is known.
    weight_decay
        Decoupled, on weight matrices only.
    regularizer
        What training adds to the objective; by default nothing.

    Raises
    ------
    ConfigError
        If the parts do not fit together.
    EstimatorError
        If an estimator does not fit its latent.
    """

    def __init__(
        self,
        features: int,
        encoder: Network,
        latents: dict[str, Latent],
        decoder: Network,
        likelihood: Likelihood,
        covariates: int = 0,
        objective: Objective | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
        regularizer: Regularizer | None = None,
    ) -> None:
        super().__init__()
        if learning_rate <= 0 or weight_decay < 0:
            raise ConfigError(
                f"learning_rate is {learning_rate} (positive), weight_decay {weight_decay} (not negative)"
            )
        self.objective = objective or ELBO()
        joint = self.objective.num_samples is not None
        with Budget(self.config["init_args"]):
            self.networks = VAENetworks(features, covariates, encoder, latents, decoder, likelihood, joint)
        self.objective.check_estimators(self.estimators)
        for estimator in self.estimators.values():
            estimator.follows_scale = True  # a gradient scaler, and accumulation, scale the gradients back
        self.regularizer = regularizer
        if regularizer is not None:
            regularizer.check(self.latents)
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.features, self.covariates = features, covariates
        self.data_registry: dict[str, Any] | None = None  # the state of the data it is trained on: names, split
        self._paths_checked = False
        self.captured: Any = None  # makes whole steps, where they are recorded (vaekit.callbacks.CUDAGraphs)
        self._resumed: dict[str, Any] = {}  # what a checkpoint within an epoch holds, until training starts
        self.step_terms: dict[str, Tensor] = {}  # of the last training step, [batch]
        self._clipped: ParameterGroups | None = None  # found once a training: a search takes as long as a small layer
        self.gradient_norm: Tensor | None = None  # of the last training step, before clipping; None without it
        self._means, self._means_logged = MetricAccumulator(), False
        self._total_steps = float("inf")
        config = self.config  # the constructor's arguments as plain data: a checkpoint loads with weights_only=True
        self.save_hyperparameters({"_class_path": config["class_path"], **config["init_args"]})

    @property
    def latents(self) -> dict[str, Latent]:
        """The latent variables by name."""
        return self.networks.latents

    @property
    def estimators(self) -> dict[str, Estimator]:
        """The gradient estimator of each latent."""
        return {name: latent.estimator for name, latent in self.latents.items()}

    def posteriors(self, batch: Batch) -> dict[str, Distribution]:
        """Return q(z | x) of each latent, batch shape ``[batch]``.

        A posterior that depends on other latents is given at their most probable values, found one after
        another: what summaries and embeddings are made of. To draw all latents together use :meth:`draw`.
        """
        return self.networks.posteriors(self.networks.encode(batch))

    def sample_posterior(self, batch: Batch, num_samples: int) -> dict[str, Tensor]:
        """Draw all latents from the posterior, each ``[num_samples, batch, *event]``."""
        return self.networks.sample_posterior(self.networks.encode(batch), num_samples)

    def loss(
        self, batch: Batch, kl_weight: float = 1.0, training: bool = False, objective: Objective | None = None
    ) -> Estimate:
        """Estimate the bound and its terms on a batch.

        Parameters
        ----------
        batch
            The mini-batch.
        kl_weight
            Weight of the KL divergences in the total.
        training
            Whether gradients, the estimators' relaxations, free bits and the regularizer are wanted; otherwise the
            draws are discrete where the latent is, and the total is the negative bound itself (at weight 1).
        objective
            Of a training for something else than the model's own, which is the default, and without the regularizer:
            it must draw as many joint trajectories, or none.

        Returns
        -------
        Result
            ``total`` ``[batch]`` in nats, lower is better; ``terms``: ``reconstruction`` (-log p(x | z)) and the
            unweighted ``kl_<name>`` of each latent.
        """
        networks = self.networks
        regularizer = self.regularizer if training and objective is None else None
        objective = (objective or self.objective) if training else TRUE_BOUND
        estimators = (
            self.estimators if training else {name: evaluation_estimator(e) for name, e in self.estimators.items()}
        )
        check = training and not self._paths_checked
        x = networks.likelihood.encoder_input(batch)
        h = networks.features(x, batch.covariates)
        result = compute_loss(networks, batch, networks.nodes(h), h, estimators, objective, kl_weight, check)
        self._paths_checked = self._paths_checked or check
        if regularizer is None:
            return result
        penalty = regularizer(self.latents, h, x, lambda x: networks.features(x, batch.covariates))
        return result._replace(total=result.total + penalty)  # the mean over the batch has it once

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Let the estimators' schedules follow the training."""
        for estimator in self.estimators.values():
            estimator.update_schedule(min(1.0, self.global_step / self._total_steps))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the objective's loss, and log the true bound and its terms beside it."""
        kl_weight = self.objective.kl_weight(self.global_step, self._total_steps)
        if self.captured is not None:  # the step is made here, the optimizer's part included
            made = self.captured(batch, kl_weight)
            loss, terms = made.loss.clone(), {name: value.clone() for name, value in made.terms.items()}
            self.gradient_norm = None if made.norm is None else made.norm.clone()
        else:
            result = self.loss(batch, kl_weight, training=True)
            loss, terms = result.total.mean(), result.terms
        self.step_terms = {name: value.detach() for name, value in terms.items()}  # named if the loss is not finite
        if self.captured is None and not all(estimator.unbiased_value for estimator in self.estimators.values()):
            with torch.no_grad():  # a relaxed value makes no bound: the logged one draws discrete values
                terms = self.loss(batch).terms
        tempered = {name: getattr(e, "temperature", None) for name, e in self.estimators.items()}
        warm = {f"temperature_{name}": value for name, value in tempered.items() if value is not None}
        if self._trainer is not None:
            self._means.update(terms, {"loss": loss, "kl_weight": kl_weight, **warm})
        return loss

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Work out the gradients (Lightning's hook)."""
        if self.captured is None:
            super().backward(loss, *args, **kwargs)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """Make a step (Lightning's hook)."""
        if self.captured is None:
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        else:
            optimizer_closure()

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer) -> None:
        """Drop the gradients (Lightning's hook): torch's own way takes as long as a small layer."""
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the true bound and its terms, whose draws follow from the batch's number."""
        self._log_held_out("val", batch, batch_idx)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the true bound and its terms, whose draws follow from the batch's number."""
        self._log_held_out("test", batch, batch_idx)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return each latent's posterior means, or its categories' probabilities, ``[batch, size]``."""
        return {name: self.latents[name].summary(q) for name, q in self.posteriors(batch).items()}

    def _log_held_out(self, stage: str, batch: Batch, batch_idx: int) -> None:
        processes, rank = (1, 0) if self._trainer is None else (self.trainer.world_size, self.trainer.global_rank)
        with fork_rng_for_batch(batch_idx * processes + rank, batch.x.device):  # batches are dealt out in turn
            terms = self.loss(batch).terms if len(batch.x) else no_terms(self.latents, batch.x)
        self._log(stage, mean_terms(terms), len(batch.x))

    def _log_training(self) -> None:
        """Log the means of the epoch, once: what was logged before a checkpoint is not in it."""
        if self._means.rows and not self._means_logged:
            self._log("train", self._means.means(), self._means.rows)
            self._means_logged = True

    def _log(self, stage: str, values: Mapping[str, Tensor | float], rows: int) -> None:
        self.log_dict(
            {f"{stage}/{name}": value for name, value in values.items()},
            on_step=False,
            on_epoch=True,
            batch_size=rows,
            sync_dist=True,  # each process has its own share of the rows
            prog_bar=False,
        )

    def setup(self, stage: str) -> None:
        """Start the decoder at the data's mean, before a checkpoint is restored over it."""
        check_precision(self.trainer.precision)
        data = getattr(self.trainer, "datamodule", None)
        if stage == "fit" and data is not None:
            self.networks.likelihood.check(data.example)
            found = data.state_dict()
            if self.data_registry is None:
                self.networks.init_from_data(data.statistics)
            else:  # it was trained before
                check_same_features(self.data_registry, found)
                self.train()  # vaekit.load returns a model in evaluation mode
            self.data_registry = found
        if stage == "fit":
            seed_rank(self.trainer.global_rank, self.trainer.world_size)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the data's names and split, and the random state: a resumed run goes on as an uninterrupted one."""
        checkpoint["data_registry"] = self.data_registry
        store(checkpoint, self._trainer, self, self._means)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Set the random state of a training that goes on: before the optimizer's set-up draws the data's order."""
        match_precision(self, checkpoint["state_dict"])
        if self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING:
            self._resumed = accept(checkpoint, self.trainer, self)

    def on_train_start(self) -> None:
        """Continue within an epoch: its metrics, its accumulated gradients and its data (Lightning's hook)."""
        resumed, self._resumed = self._resumed, {}
        resume(self.trainer, self, self._means, resumed)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Keep the moving averages of costs in step, where several processes train; log at the end of an epoch."""
        if self.trainer.world_size > 1:
            sync_baselines(self, lambda value: self.trainer.strategy.reduce(value, reduce_op="mean"))
        stops = self.trainer.should_stop and self.trainer.fit_loop._can_stop_early
        if stops or self.trainer.is_last_batch or self.global_step >= self.trainer.max_steps >= 0:
            self._log_training()  # before the callbacks' end of the epoch, which read it

    def on_train_epoch_end(self) -> None:
        """Log an epoch that ended early, at a validation, or just before it was resumed; begin the next."""
        self._log_training()
        self._means, self._means_logged = MetricAccumulator(), False

    def on_fit_start(self) -> None:
        """Settle the number of steps that the warm-up refers to, of threads, and what each step would ask again."""
        rank_zero_info(keep_threads())
        self._means, self._means_logged, self._clipped = MetricAccumulator(), False, None
        settle_accelerators()
        self._total_steps = self.trainer.estimated_stepping_batches
        self.objective.check_steps(self._total_steps)

    def configure_optimizers(self) -> Any:
        """Return Adam over weights (decayed), other parameters and baselines, with a cosine schedule."""
        optimizer = self._trained().make_optimizer(self.learning_rate, self.weight_decay)
        total = self.trainer.estimated_stepping_batches
        if not 0 < total < float("inf"):
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": cosine_schedule(optimizer, total), "interval": "step"},
        }

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the model and its baselines each by their own norm: a baseline's loss is on another scale."""
        if not gradient_clip_val:
            return
        if gradient_clip_algorithm not in (None, "norm"):
            raise ConfigError(f"gradient_clip_algorithm is {gradient_clip_algorithm!r}; only 'norm' is supported")
        self._clipped = self._clipped or self._trained()
        self.gradient_norm = self._clipped.clip(gradient_clip_val)

    def _trained(self) -> ParameterGroups:
        """Return the parameters by what they are trained for."""
        return ParameterGroups.from_model(self.networks, self.estimators, self.parameters())

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, map_location: Any = "cpu", **kwargs: Any) -> VAE:  # type: ignore[override]
        """Load a model of this class (see :func:`vaekit.load`), with the arguments that it was made with.

        Of Lightning's further arguments only what holds anyway can be given: ``strict=True``, ``weights_only=True``.

        Raises
        ------
        CheckpointError
            If the file is no vaekit checkpoint, or holds another class.
        ConfigError
            If other arguments are given.
        """
        from vaekit.models.checkpoint import check_load_arguments, load  # they need this class

        check_load_arguments(kwargs)
        return load(checkpoint_path, expected=cls, map_location=map_location)
