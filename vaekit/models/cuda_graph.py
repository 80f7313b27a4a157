"""A whole training step as one CUDA graph. It has been tested on the CPU only, and never run on a GPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vaekit.batch import Batch
from vaekit.models.parameter_groups import ParameterGroups
from vaekit.models.vae import VAE

NUM_WARMUP_STEPS = 3  # before a capture: libraries initialize themselves, and optimizer state is created


class CUDAGraphStep:
    """Loss, gradients, clipping and the optimizer's step, captured once on a GPU and then replayed.

    A mini-batch of another shape (the last one of an epoch) is computed without the graph, and so is every mini-batch
    on the CPU. All inputs that change between steps are tensors: the mini-batch, the KL weight, the learning rate,
    temperatures and the RNG state. An estimator with ``stick_the_landing`` needs the KL weight as a number, so that
    its steps are captured after the warm-up. The next step overwrites the tensors of a replayed one.

    Parameters
    ----------
    model : VAE
        Model on its device, in training mode.
    optimizer : torch.optim.Optimizer
        AdamW of its parameters. Its learning rates become tensors on a GPU.
    max_norm : float or None
        Largest gradient norm of the model, and of its baselines. None: no clipping.

    Examples
    --------
    >>> from vaekit import GaussianVAE
    >>> from vaekit.likelihoods import Bernoulli
    >>> model = GaussianVAE(4, Bernoulli(), latent_dim=2, hidden=[3])
    >>> step = CUDAGraphStep(model, torch.optim.AdamW(model.parameters()), max_norm=10.0)
    >>> loss, terms = step(Batch(torch.ones(5, 4)))
    >>> terms["kl_z"].shape
    torch.Size([5])
    """

    def __init__(self, model: VAE, optimizer: torch.optim.Optimizer, max_norm: float | None = None) -> None:
        self.model, self.optimizer, self.max_norm = model, optimizer, max_norm
        self.device = next(model.parameters()).device
        self._groups = ParameterGroups.from_model(model.networks, model.parameters())
        self._numeric_weight = any(estimator.stick_the_landing for estimator in model.estimators.values())
        self._kl_weight = torch.ones((), device=self.device)
        self._last_key: Any = None
        self._repetitions = 0
        self._captured: Any = None
        if self.device.type == "cuda":
            for group in optimizer.param_groups:
                group["capturable"] = True
                group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32, device=self.device)

    def __call__(self, batch: Batch, kl_weight: float = 1.0) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute a step; return the detached loss, and the terms of the negative ELBO, each ``[batch]``.

        The norm of the model's gradient before clipping becomes ``model.gradient_norm``.
        """
        if self.device.type != "cuda":
            return self._step(batch, kl_weight)
        tensors = batch._replace(nonzero=None)  # only the CPU uses the non-zero entries
        self._kl_weight.fill_(kl_weight)
        weight: Any = kl_weight if self._numeric_weight else self._kl_weight
        shapes = [(field.shape, field.dtype) if isinstance(field, Tensor) else None for field in tensors]
        key = (*shapes, self._numeric_weight and kl_weight, len(self.model.held_priors))
        if self._captured is None or key != self._captured[0]:
            self._repetitions = self._repetitions + 1 if key == self._last_key else 1
            self._last_key = key
            if self._repetitions <= NUM_WARMUP_STEPS:
                return self._warm_up(tensors, weight)
            self._capture(key, tensors, weight)
        _, graph, inputs, (loss, terms, norm) = self._captured
        for old, new in zip(inputs, tensors, strict=True):
            if isinstance(new, Tensor):
                old.copy_(new, non_blocking=True)
        graph.replay()
        self.model.gradient_norm = None if norm is None else norm.clone()
        return loss.clone(), {name: value.clone() for name, value in terms.items()}

    def _warm_up(self, batch: Batch, weight: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute a step on a side stream, as a capture does."""
        current, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(current)
        with torch.cuda.stream(side):
            result = self._step(batch, weight)
        current.wait_stream(side)
        return result

    def _capture(self, key: Any, batch: Batch, weight: Any) -> None:
        inputs = Batch(*(field.clone() if isinstance(field, Tensor) else None for field in batch))  # type: ignore[arg-type]
        self.optimizer.zero_grad()  # the graph allocates its gradients
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            loss, terms = self._step(inputs, weight)
        self._captured = (key, graph, inputs, (loss, terms, self.model.gradient_norm))

    def _step(self, batch: Batch, weight: Any) -> tuple[Tensor, dict[str, Tensor]]:
        self.optimizer.zero_grad()
        loss, terms = VAE.compute_step(self.model, batch, weight)
        loss.backward()
        self.model.held_priors.drop_gradients()
        self.model.gradient_norm = None if self.max_norm is None else self._groups.clip(self.max_norm)
        self.optimizer.step()
        return loss.detach(), {name: value.detach() for name, value in terms.items()}
