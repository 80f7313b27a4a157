"""A generative network with two linear layers of binary variables, as REBAR's repository has it.

``h2 ~ Bernoulli``, ``h1 | h2``, ``x | h1``, and a posterior ``h1 | x``, ``h2 | h1``, each a linear layer to 200 logits
(the pixels' for x). Layers see bits as -1 and 1 and centered pixels; weights start from a normal of variance
2 / inputs, cut off at two deviations; the pixels' logits have those of the mean image as a fixed offset.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent

HIDDEN, BATCH = 200, 24


class TwoLayers(nn.Module):
    """The generative and the inference network."""

    mean: Tensor
    offset: Tensor

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        pixels = len(mean)
        self.inference = nn.ModuleList([nn.Linear(pixels, HIDDEN), nn.Linear(HIDDEN, HIDDEN)])
        self.generative = nn.ModuleList([nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, pixels)])
        self.prior = nn.Parameter(torch.zeros(HIDDEN))
        self.register_buffer("mean", mean)
        self.register_buffer("offset", mean.clamp(0.001, 0.999).logit())
        for layer in (*self.inference, *self.generative):
            start(layer)

    def first(self, x: Tensor) -> Tensor:
        """Return the logits of q(h1 | x)."""
        return self.inference[0](x - self.mean)

    def second(self, h1: Tensor, fixed: bool = False) -> Tensor:
        """Return the logits of q(h2 | h1); ``fixed``: with no gradient to the layer's parameters."""
        weight, bias = self.inference[1].weight, self.inference[1].bias
        return F.linear(2 * h1 - 1, weight.detach() if fixed else weight, bias.detach() if fixed else bias)

    def log_likelihood(self, h1: Tensor, x: Tensor) -> Tensor:
        """Return log p(x | h1)."""
        return log_prob(self.generative[1](2 * h1 - 1) + self.offset, x)

    def log_first(self, h1: Tensor, h2: Tensor) -> Tensor:
        """Return log p(h1 | h2)."""
        return log_prob(self.generative[0](2 * h2 - 1), h1)

    def log_second(self, h2: Tensor) -> Tensor:
        """Return log p(h2)."""
        return log_prob(self.prior, h2)


def start(layer: nn.Module) -> None:
    """Set a linear layer to its starting values."""
    assert isinstance(layer, nn.Linear)
    deviation = math.sqrt(1.3 * 2 / layer.in_features)  # 1.3: what cutting it off takes away
    nn.init.trunc_normal_(layer.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
    nn.init.zeros_(layer.bias)


def bits(logits: Tensor) -> Independent:
    return Independent(Bernoulli(logits=logits, validate_args=False), 1)


def log_prob(logits: Tensor, value: Tensor) -> Tensor:
    """Return the log-probability of bits, or the cross-entropy of relaxed ones, ``[*rows, batch]``."""
    return (value * logits - F.softplus(logits)).sum(-1)


def images(path: Path | None) -> Tensor:
    """Return gray levels in 0..1, ``[images, pixels]``: those of an .npz file, or scikit-learn's digits."""
    if path is None:
        from sklearn.datasets import load_digits

        return torch.from_numpy(load_digits().data).float() / 16
    with np.load(path) as file:
        found = next(file[name] for name in ("train", "x_train", *file.files) if name in file.files)
    flat = torch.from_numpy(found.reshape(len(found), -1)).float()
    return flat / max(1.0, flat.max().item())


def batches(binary: Tensor) -> Iterator[Tensor]:
    """Yield mini-batches of shuffled images without end, an epoch after the other."""
    while True:
        for rows in torch.randperm(len(binary)).split(BATCH):
            yield binary[rows]
