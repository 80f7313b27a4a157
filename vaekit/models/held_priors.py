"""Priors that training holds fixed at first, and then starts at a fit to the posteriors of the training data."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from vaekit._core.announce import announce
from vaekit.batch import Batch
from vaekit.exceptions import ConfigError
from vaekit.latents import Latent
from vaekit.latents.prior_start import PriorStart
from vaekit.models.distributed import fork_rng_for_batch
from vaekit.models.evaluation_mode import evaluation_mode

MAX_OBSERVATIONS = 50_000  # of the fit; more hardly change 20 clusters, and k-means takes 10 s for these
CHUNK_OBSERVATIONS = 1024


class _HeldPrior(NamedTuple):
    prior: PriorStart
    step: int  # training step before which the prior starts
    parameters: list[nn.Parameter]


class HeldPriors:
    """The priors of a run that have not started yet (:class:`vaekit.latents.prior_start.PriorStart`).

    An object without priors is false. The state of each latent in the checkpoint contains whether its prior has
    started, so that a resumed or extended run, and a new run from trained weights, start it once.

    Parameters
    ----------
    latents : Mapping[str, Latent]
        Latents of the model.
    total_steps : float
        Number of training steps.
    """

    def __init__(self, latents: Mapping[str, Latent], total_steps: float) -> None:
        self._held: dict[str, _HeldPrior] = {}
        for name, latent in latents.items():
            if (prior := latent.pending_start) is not None:
                step = min(math.ceil(prior.start_fraction * total_steps), int(total_steps) - 1)
                self._held[name] = _HeldPrior(prior, step, prior.hold_prior())

    def __len__(self) -> int:
        return len(self._held)

    def drop_gradients(self) -> None:
        """Set the gradients of the held parameters to None, so that the optimizer does not change them.

        Their ``requires_grad`` remains True, because a distributed run expects the same gradients in each step.
        """
        for held in self._held.values():
            for parameter in held.parameters:
                parameter.grad = None

    def start_due(self, model: Any, trainer: pl.Trainer) -> None:
        """Start the priors whose step has come. The RNG states and the position of the loader do not change."""
        for name in [name for name, held in self._held.items() if trainer.global_step >= held.step]:
            prior = self._held.pop(name).prior
            parameters: tuple[Tensor, ...] = ()
            if trainer.is_global_zero:
                parameters = _fit(prior, model, trainer)
            prior.set_prior(trainer.strategy.broadcast(parameters))
            announce(
                trainer, f"latent {name!r}: k-means set {prior.num_states} components at step {trainer.global_step}"
            )

    def warn_unfinished(self, trainer: pl.Trainer) -> None:
        """Warn if training ends before a prior has started."""
        for name, held in self._held.items():
            warnings.warn(
                f"latent {name!r}: training ended at step {trainer.global_step}, before k-means would have set the "
                f"components at step {held.step}. All observations have the same probabilities of the categories. "
                "Resume the run.",
                UserWarning,
                stacklevel=2,
            )


def check_prior_starts(latents: Mapping[str, Latent], total_steps: float, trainer: pl.Trainer) -> None:
    """Raise a ConfigError if a prior that training must start has no known step, or too few observations."""
    for name, latent in latents.items():
        if (prior := latent.pending_start) is None:
            continue
        label = f"latent {name!r}: {type(latent).__name__}"
        if not 0 < total_steps < float("inf"):
            raise ConfigError(
                f"{label}: start_fraction={prior.start_fraction} is a fraction of all training steps, but their number "
                f"is {total_steps}. Set trainer.max_epochs or trainer.max_steps."
            )
        loader: Any = trainer.train_dataloader
        count = len(loader.dataset) if getattr(loader, "batch_sampler", None) is not None else prior.num_states
        if count < prior.num_states:
            raise ConfigError(
                f"{label}: categories={prior.num_states} must not exceed the {count} training observations."
            )


def _fit(prior: PriorStart, model: Any, trainer: pl.Trainer) -> tuple[Tensor, ...]:
    """Return the parameters of a prior that fits the training data."""
    seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
    with evaluation_mode(model), fork_rng_for_batch(seed, model.device):
        batches = _training_batches(trainer.train_dataloader, seed)
        return prior.fit_prior((model.networks.encode(batch.to(model.device)) for batch in batches), seed)


def _training_batches(loader: Any, seed: int) -> Iterator[Batch]:
    """Yield the training observations, or a random part of them, in the order of the data set.

    The loader itself is not used: iteration would change the position that a checkpoint stores.
    """
    dataset = getattr(loader, "dataset", loader)
    if getattr(loader, "batch_sampler", None) is None:  # items are mini-batches
        count = 0
        for batch in DataLoader(dataset, batch_size=None):
            yield batch
            count += len(batch.x)
            if count >= MAX_OBSERVATIONS:
                return
        return
    rows = torch.arange(len(dataset))
    if len(rows) > MAX_OBSERVATIONS:
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randperm(len(rows), generator=generator)[:MAX_OBSERVATIONS].sort().values
    yield from DataLoader(Subset(dataset, rows.tolist()), CHUNK_OBSERVATIONS, collate_fn=loader.collate_fn)
