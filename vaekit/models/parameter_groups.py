"""Parameter groups of a VAE: their optimizer, schedule, gradient clipping and precision."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from vaekit.exceptions import ConfigError
from vaekit.models.vae_networks import VAENetworks


class ParameterGroups(NamedTuple):
    """Parameters, grouped by decay and by loss.

    Attributes
    ----------
    weights : list[Tensor]
        Weight matrices, which decay.
    other : list[Tensor]
        Other parameters of the model.
    baselines : list[Tensor]
        Parameters of the estimators: learned baselines and control variates, whose loss has another scale.
    """

    weights: list[Tensor]
    other: list[Tensor]
    baselines: list[Tensor]

    @classmethod
    def from_model(cls, networks: VAENetworks, parameters: Iterable[Tensor]) -> ParameterGroups:
        """Group all parameters of a model."""
        baselines = [p for latent in networks.latents.values() for p in latent.estimator.parameters()]
        baseline_ids, decayed_ids = {id(p) for p in baselines}, {id(p) for p in networks.weight_matrices()}
        model = [p for p in parameters if id(p) not in baseline_ids]
        weights = [p for p in model if id(p) in decayed_ids]
        return cls(weights, [p for p in model if id(p) not in decayed_ids], list(baselines))

    def make_optimizer(self, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
        """Return Adam with decoupled decay of the weight matrices."""
        groups = [
            {"params": self.weights, "weight_decay": weight_decay},
            {"params": self.other, "weight_decay": 0.0},
            {"params": self.baselines, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW([g for g in groups if g["params"]], lr=learning_rate, fused=True)

    def configure_optimizers(self, learning_rate: float, weight_decay: float, trainer: pl.Trainer) -> Any:
        """Return the optimizer for Lightning, with a cosine schedule if the number of steps is known."""
        optimizer, total_steps = self.make_optimizer(learning_rate, weight_decay), trainer.estimated_stepping_batches
        if not 0 < total_steps < float("inf"):
            return optimizer
        scheduler = {"scheduler": cosine_schedule(optimizer, total_steps), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def clip(self, max_norm: float, algorithm: str | None = None) -> Tensor:
        """Clip the gradients of the model and of the baselines separately, each by their norm.

        Returns
        -------
        Tensor
            Norm of the model's gradient before clipping.

        Raises
        ------
        ConfigError
            If ``algorithm`` is not ``"norm"`` or None.
        """
        if algorithm not in (None, "norm"):
            raise ConfigError(f"VAE: gradient_clip_algorithm={algorithm!r} must be 'norm'.")
        if self.baselines:
            clip_gradients(self.baselines, max_norm)
        return clip_gradients([*self.weights, *self.other], max_norm)


def clip_gradients(parameters: list[Tensor], max_norm: float) -> Tensor:
    """Scale the gradients to a norm of at most ``max_norm``, and return the norm before."""
    norm = gradient_norm([p.grad for p in parameters if p.grad is not None])
    if norm.device.type != "cpu" or norm > max_norm:  # on a GPU the comparison would wait for the device
        torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm


def gradient_norm(gradients: list[Tensor]) -> Tensor:
    """Return the norm of all gradients together; on the CPU, torch's own function takes four times as long."""
    if not gradients or any(g.device.type != "cpu" or g.dtype != torch.float32 for g in gradients):
        return torch.nn.utils.get_total_norm(gradients)
    flat = [g.reshape(-1) for g in gradients]
    return torch.stack([torch.dot(g, g) for g in flat]).sum().sqrt()


def cosine_schedule(optimizer: torch.optim.Optimizer, total_steps: float) -> LambdaLR:
    """Return a schedule that decreases the learning rate to 0 along a cosine.

    It is a function of the step only: a run that is resumed with more epochs follows the longer curve.
    """
    return LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * min(1.0, step / total_steps))))


def match_precision(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Convert a module to the precision of the weights that it is about to load, which may differ from the default."""
    own = {name: parameter.dtype for name, parameter in module.named_parameters()}
    has_64_bits = any(weights[name].dtype == torch.float64 for name in own if name in weights)
    if set(own.values()) != {dtype := torch.float64 if has_64_bits else torch.float32}:
        module.to(dtype)
