"""How a VAE's parameters are trained: their groups, the learning rate's schedule, and clipping."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from vaekit.estimators import Estimator
from vaekit.exceptions import ConfigError
from vaekit.models.vae_networks import VAENetworks


class ParameterGroups(NamedTuple):
    """Parameters by what they are trained for.

    Attributes
    ----------
    weights
        Weight matrices, which a decay shrinks.
    others
        The model's other parameters.
    baselines
        Parameters of estimators: learned baselines and control variates, whose loss is on another scale.
    """

    weights: list[Tensor]
    other: list[Tensor]
    baselines: list[Tensor]

    @classmethod
    def from_model(
        cls, networks: VAENetworks, estimators: Mapping[str, Estimator], parameters: Iterable[Tensor]
    ) -> ParameterGroups:
        """Sort a model's parameters."""
        baselines: list[Tensor] = [p for estimator in estimators.values() for p in estimator.parameters()]
        apart = {id(p) for p in baselines}
        own = [p for p in parameters if id(p) not in apart]
        decayed = {id(p) for p in networks.weight_matrices()}
        weights = [p for p in own if id(p) in decayed]
        return cls(weights, [p for p in own if id(p) not in decayed], baselines)

    def make_optimizer(self, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
        """Return Adam with a decoupled decay of the weight matrices."""
        groups = [
            {"params": self.weights, "weight_decay": weight_decay},
            {"params": self.other, "weight_decay": 0.0},
            {"params": self.baselines, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW([g for g in groups if g["params"]], lr=learning_rate, fused=True)

    def clip(self, limit: float) -> Tensor:
        """Scale the gradients of the model, and those of the baselines, to a norm of ``limit`` at most.

        Returns
        -------
        Tensor
            The norm of the model's before.
        """
        if self.baselines:
            _clip(self.baselines, limit)
        return _clip([*self.weights, *self.other], limit)


def cosine_schedule(optimizer: torch.optim.Optimizer, steps: float) -> LambdaLR:
    """Return the schedule by which the rate falls to 0 along a cosine.

    It is a function of the step alone: a training that goes on with more epochs follows the longer curve.
    """
    return LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))))


def check_precision(precision: str) -> None:
    """Refuse weights in half precision.

    Raises
    ------
    ConfigError
        If the trainer's precision makes them so.
    """
    if precision in ("bf16-true", "16-true"):
        raise ConfigError(
            f"trainer.precision is {precision!r}: weights in half precision lose counts and small steps; "
            "'bf16-mixed' and '16-mixed' have matrix products in it alone"
        )


def match_precision(module: torch.nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Convert a module to float64 if the weights that it is about to load are: they would be rounded."""
    if any(weights[name].dtype == torch.float64 for name, _ in module.named_parameters() if name in weights):
        module.double()


def settle_accelerators() -> None:
    """Let torch remember that there is no GPU.

    Lightning has torch ask the driver's library (by this variable), for processes that are forked later; on a machine
    without one each step of an optimizer would look for the library's file, which takes as long as a small layer.
    """
    if not torch.cuda.is_available():
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"


def _clip(parameters: list[Tensor], limit: float) -> Tensor:
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = gradient_norm(gradients)
    if norm.device.type != "cpu" or norm > limit:  # on the CPU the answer is at hand: a multiplication by 1 is spared
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return norm


def gradient_norm(gradients: list[Tensor]) -> Tensor:
    """Return the norm of all gradients together; on the CPU torch's own function takes four times as long."""
    if not gradients or any(g.device.type != "cpu" or g.dtype != torch.float32 for g in gradients):
        return torch.nn.utils.get_total_norm(gradients)
    flat = [g.reshape(-1) for g in gradients]
    return torch.stack([torch.dot(g, g) for g in flat]).sum().sqrt()
