"""Means of the metrics over the training steps of an epoch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from vaekit.batch import Batch
from vaekit.estimators import Estimator
from vaekit.models.distributed import fork_rng_for_batch
from vaekit.models.loss import ADDED_TERMS

MAX_PENDING_STEPS = 50  # whose tensors are kept before they are added up


class MetricAccumulator:
    """Sums of the ELBO's terms and of other metrics over all steps since the last :meth:`reset`.

    :meth:`update` only stores tensors: summing such small values in each step would take as long as a layer. The sums
    are added step by step in float64, so that an interrupted and resumed run has the same means as an uninterrupted
    one.

    Attributes
    ----------
    num_observations : int
        Number of observations in the sums.
    logged : bool
        Whether the means of this epoch have been logged.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Discard all sums."""
        self.load_state_dict({"rows": 0, "sums": {}, "terms": ()})
        self.logged = False

    def update(self, terms: Mapping[str, Tensor], others: Mapping[str, Tensor | float]) -> None:
        """Add a step.

        Parameters
        ----------
        terms : Mapping[str, Tensor]
            Terms of the loss in nats, each of shape (batch,): those of the negative ELBO, and ``ADDED_TERMS``.
        others : Mapping[str, Tensor | float]
            Scalars that describe the step. Their means are weighted by the number of observations.
        """
        num_observations = len(next(iter(terms.values())))
        values: dict[str, Tensor | float] = {name: value.detach() for name, value in terms.items()}
        for name, scalar in others.items():  # temperatures change in place
            values[name] = scalar.detach().clone() if isinstance(scalar, Tensor) else scalar
        self._terms.update(terms)
        self._pending.append((num_observations, values))
        self.num_observations += num_observations
        if len(self._pending) >= MAX_PENDING_STEPS:
            self._add_pending()

    def compute(self) -> dict[str, float]:
        """Return ``elbo``, its terms and the other metrics, averaged over all observations."""
        self._add_pending()
        means = {name: total / max(1, self.num_observations) for name, total in self._sums.items()}
        return {"elbo": -sum(means[name] for name in means if name in self._terms and name not in ADDED_TERMS), **means}

    def state_dict(self) -> dict[str, Any]:
        """Return the sums as plain data, for a checkpoint within an epoch."""
        self._add_pending()
        return {"rows": self.num_observations, "sums": dict(self._sums), "terms": sorted(self._terms)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace the sums by those of :meth:`state_dict`."""
        self.num_observations: int = state["rows"]
        self._sums: dict[str, float] = dict(state["sums"])
        self._terms: set[str] = set(state["terms"])
        self._pending: list[tuple[int, dict[str, Tensor | float]]] = []

    def _add_pending(self) -> None:
        """Add the pending steps in their order, with one transfer from the device."""
        pending, self._pending = self._pending, []
        sums = [value.sum() for _, values in pending for value in values.values() if isinstance(value, Tensor)]
        scalars = iter(torch.stack([s.to(sums[0].device) for s in sums]).tolist() if sums else ())
        for num_observations, values in pending:
            for name, value in values.items():
                scalar = next(scalars) if isinstance(value, Tensor) else value
                weighted = scalar if name in self._terms else num_observations * scalar
                self._sums[name] = self._sums.get(name, 0.0) + weighted


def mean_terms(terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return ``elbo`` and its terms, averaged over a mini-batch, which may be empty."""
    means = {name: value.sum() / max(1, value.numel()) for name, value in terms.items()}
    return {"elbo": -torch.stack(list(means.values())).sum(), **means}


def scheduled_values(estimators: Mapping[str, Estimator]) -> dict[str, Tensor]:
    """Return the estimators' scheduled values, such as ``temperature_<latent>``."""
    values = {name: estimator.scheduled_values() for name, estimator in estimators.items()}
    return {f"{key}_{name}": value for name, scheduled in values.items() for key, value in scheduled.items()}


def log_means(module: pl.LightningModule, stage: str, means: Mapping[str, Any], num_observations: int) -> None:
    """Log means over a mini-batch or an epoch as ``<stage>/<name>``, averaged over the epoch and all ranks."""
    values = {f"{stage}/{name}": value for name, value in means.items()}
    module.log_dict(values, on_step=False, on_epoch=True, batch_size=num_observations, sync_dist=True, prog_bar=False)


def log_epoch(module: pl.LightningModule, metrics: MetricAccumulator) -> None:
    """Log the means of the training steps of an epoch, once per epoch."""
    if metrics.num_observations and not metrics.logged:
        log_means(module, "train", metrics.compute(), metrics.num_observations)
        metrics.logged = True


def log_held_out(model: Any, trainer: pl.Trainer | None, stage: str, batch: Batch, batch_idx: int) -> None:
    """Log the ELBO of a held-out mini-batch and its terms; its samples depend on its index only.

    The ELBO then does not depend on the number of ranks, and between epochs it changes with the weights only.
    """
    world_size, rank = (1, 0) if trainer is None else (trainer.world_size, trainer.global_rank)
    with fork_rng_for_batch(batch_idx * world_size + rank, batch.x.device):  # ranks get mini-batches round-robin
        terms = model.loss(batch).terms if len(batch.x) else None
    if terms is None:  # a rank without data logs like the others; distributions of torch reject an empty batch
        terms = {name: batch.x.new_zeros(0) for name in ("reconstruction", *(f"kl_{name}" for name in model.latents))}
    log_means(model, stage, mean_terms(terms), len(batch.x))
