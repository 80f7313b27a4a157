"""A whole training step as one CUDA graph: a GPU is given a step at once, and not an operation at a time."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from vaekit.batch import Batch
from vaekit.models.vae import VAE

WARM = 3  # steps that run as usual before one is recorded: libraries set themselves up, and state is made


class StepOutput(NamedTuple):
    """What a training step leaves, without gradients. The next step writes over the tensors of a recorded one.

    Attributes
    ----------
    loss
        The objective's loss before the step, a scalar.
    terms
        Of the true bound, each ``[batch]``, as :meth:`vaekit.models.VAE.bound` gives them.
    norm
        The norm of the model's gradient before clipping; None without it.
    """

    loss: Tensor
    terms: dict[str, Tensor]
    norm: Tensor | None


class CUDAGraphStep:
    """Loss, gradient, clipping and the optimizer's step, recorded once on a GPU and then played back.

    A batch of another shape than those before (an epoch's last) is taken as usual, and so is every batch on the CPU.
    What changes from step to step is read from tensors: the batch, the KL divergences' weight, the learning rate (a
    scheduler writes into its tensor), temperatures, the state of the noise. With an estimator that sticks the landing
    the weight is part of what is recorded: its steps are recorded when the warm-up is over.

    Parameters
    ----------
    model
        On its device, in training mode.
    optimizer
        AdamW of its parameters (:meth:`~vaekit.models.VAE.configure_optimizers`); on a GPU its learning rates become
        tensors.
    clip
        Largest norm of the gradients, of the model and of its baselines each; None for no clipping.

    Examples
    --------
    >>> from vaekit import GaussianVAE
    >>> from vaekit.likelihoods import Bernoulli
    >>> model = GaussianVAE(4, Bernoulli(), latent_dim=2, hidden=[3])
    >>> step = CUDAGraphStep(model, torch.optim.AdamW(model.parameters()), clip=10.0)
    >>> step(Batch(torch.ones(5, 4))).terms["kl_z"].shape
    torch.Size([5])
    """

    def __init__(self, model: VAE, optimizer: torch.optim.Optimizer, clip: float | None = None) -> None:
        self.model, self.optimizer, self.clip = model, optimizer, clip
        self.device = next(model.parameters()).device
        self._trained = model._trained()
        self._exact = all(estimator.unbiased_value for estimator in model.estimators.values())
        self._sticks = any(estimator.stick_the_landing for estimator in model.estimators.values())
        self._kl_weight = torch.ones((), device=self.device)
        self._last: Any = None
        self._repeated = 0
        self._recorded: Any = None
        if self.device.type == "cuda":
            for group in optimizer.param_groups:
                group["capturable"] = True
                group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=self.device)

    def __call__(self, batch: Batch, kl_weight: float = 1.0) -> StepOutput:
        """Make a step on a batch, which lies on the model's device."""
        if self.device.type != "cuda":
            return self._step(batch, kl_weight)
        batch = batch._replace(nonzero=None)  # of use to the CPU alone
        self._kl_weight.fill_(kl_weight)
        weight = kl_weight if self._sticks else self._kl_weight
        key = (
            *(None if part is None else (part.shape, part.dtype) for part in _tensors(batch)),
            kl_weight if self._sticks else 0,
        )
        if self._recorded is not None and key == self._recorded[0]:
            _, graph, held, result = self._recorded
            _copy(held, batch)
            graph.replay()
            return result
        self._repeated = self._repeated + 1 if key == self._last else 1
        self._last = key
        if self._repeated > WARM:
            return self._record(key, batch, weight)
        here, beside = torch.cuda.current_stream(), torch.cuda.Stream()
        beside.wait_stream(here)
        with torch.cuda.stream(beside):  # a graph is recorded on a stream of its own, and so it is tried
            result = self._step(batch, weight)
        here.wait_stream(beside)
        return result

    def _record(self, key: Any, batch: Batch, weight: float | Tensor) -> StepOutput:
        held = Batch(*(None if part is None else part.clone() for part in _tensors(batch)))  # type: ignore[arg-type]
        self.optimizer.zero_grad()  # the graph has gradients of its own
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = self._step(held, weight)
        self._recorded = (key, graph, held, result)
        graph.replay()  # to record is not to run
        return result

    def _step(self, batch: Batch, weight: float | Tensor) -> StepOutput:
        self.optimizer.zero_grad()
        result = self.model.loss(batch, weight, training=True)  # type: ignore[arg-type]
        loss = result.total.mean()
        loss.backward()
        terms = result.terms
        if not self._exact:
            with torch.no_grad():  # as in VAE.training_step
                terms = self.model.loss(batch).terms
        norm = None if self.clip is None else self._trained.clip(self.clip)
        self.optimizer.step()
        return StepOutput(loss.detach(), {name: value.detach() for name, value in terms.items()}, norm)


def _tensors(batch: Batch) -> tuple[Tensor | None, ...]:
    """Return the fields of a batch on a GPU, where non-zero entries are not told apart."""
    assert batch.nonzero is None
    return tuple(batch)  # type: ignore[arg-type]


def _copy(held: Batch, batch: Batch) -> None:
    for old, new in zip(_tensors(held), _tensors(batch), strict=True):
        if old is not None and new is not None:
            old.copy_(new, non_blocking=True)
