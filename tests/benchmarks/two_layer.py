"""A generative network with two linear layers of binary variables, and the variance of its encoder's gradient.

The model of the papers on MuProp, REBAR and RELAX: ``h2 ~ Bernoulli``, ``h1 | h2``, ``x | h1``, and a posterior
``h1 | x``, ``h2 | h1``, each a linear layer to 200 (or 784) logits. The variance is that of one gradient of a fresh
mini-batch of 24, averaged over the encoder's parameters, after some steps of training by that same estimator.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Bernoulli, Independent
from tqdm.auto import tqdm

from vaekit import expectation
from vaekit.estimators import Estimator, Learned, MovingAverage, MuProp, Rebar, Relax, ScoreFunction

HIDDEN, BATCH = 200, 24


class TwoLayers(nn.Module):
    """The generative and the inference network."""

    def __init__(self, pixels: int, mean: Tensor) -> None:
        super().__init__()
        self.mean = mean
        self.inference = nn.ModuleList([nn.Linear(pixels, HIDDEN), nn.Linear(HIDDEN, HIDDEN)])
        self.generative = nn.ModuleList([nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, pixels)])
        self.prior = nn.Parameter(torch.zeros(HIDDEN))
        with torch.no_grad():
            self.generative[1].bias.copy_(mean.clamp(0.01, 0.99).logit())

    def loss(self, x: Tensor, estimators: dict[str, Estimator]) -> Tensor:
        """Return minus the evidence lower bound, ``[batch]``, in nats."""
        first = self.inference[0](x - self.mean)

        layer = self.inference[1]

        def second(h1: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            return F.linear(2 * h1 - 1, weight, bias)

        q = {"h1": bits(first), "h2": lambda h1: bits(second(h1, layer.weight, layer.bias))}
        terms = {
            "x": lambda h1: -log_prob(self.generative[1](2 * h1 - 1), x),
            "h1": lambda h1, h2: log_prob(first.detach(), h1) - log_prob(self.generative[0](2 * h2 - 1), h1),
            # the parameters of log q have no gradient of their own: the score's mean is zero
            "h2": lambda h1, h2: (
                log_prob(second(h1, layer.weight.detach(), layer.bias.detach()), h2) - log_prob(self.prior, h2)
            ),
        }
        return expectation(terms, q, estimators, context=x - self.mean)


def bits(logits: Tensor) -> Independent:
    return Independent(Bernoulli(logits=logits, validate_args=False), 1)


def log_prob(logits: Tensor, value: Tensor) -> Tensor:
    """Return the log-probability of bits, or the cross-entropy of relaxed ones, ``[*rows, batch]``."""
    return (value * logits - F.softplus(logits)).sum(-1)


def network(inputs: int) -> nn.Module:
    """Return a network whose output starts at 0."""
    made = nn.Sequential(nn.Linear(inputs, 100), nn.Tanh(), nn.Linear(100, 1))
    nn.init.zeros_(made[2].weight)
    nn.init.zeros_(made[2].bias)
    return made


def contestants(pixels: int) -> dict[str, Callable[[], Estimator]]:
    """Return makers of the estimators, by the papers' names."""
    return {
        "NVIL": lambda: ScoreFunction(baseline=Learned(network(pixels))),
        "moving average": lambda: ScoreFunction(baseline=MovingAverage()),
        "MuProp": MuProp,
        "REBAR": Rebar,
        "RELAX": lambda: Relax(network(HIDDEN + pixels)),
    }


# log variances at these steps on Omniglot, from REBAR's repository (shared/ANCHORS.md)
MARKS = (959, 1918)
PUBLISHED = {"NVIL": (2.764, 2.267), "MuProp": (-0.034, -0.718), "REBAR": (-3.539, -3.662)}
GAPS = (("NVIL", "REBAR"), ("moving average", "REBAR"), ("MuProp", "REBAR"), ("REBAR", "RELAX"))
TARGET_GAP = 5.0  # NVIL - REBAR


def images(path: Path | None) -> Tensor:
    """Return grey levels in 0..1, ``[images, pixels]``: those of an .npz file, or scikit-learn's digits."""
    if path is None:
        from sklearn.datasets import load_digits

        return torch.from_numpy(load_digits().data).float() / 16
    with np.load(path) as file:
        found = next(file[name] for name in ("train", "x_train", *file.files) if name in file.files)
    flat = torch.from_numpy(found.reshape(len(found), -1)).float()
    return flat / max(1.0, flat.max().item())


def batches(grey: Tensor) -> Iterator[Tensor]:
    """Yield mini-batches, binarized anew."""
    while True:
        yield torch.bernoulli(grey[torch.randint(len(grey), (BATCH,))])


def log_variances(
    grey: Tensor, name: str, marks: list[int], draws: int, seed: int, learning_rate: float = 3e-4
) -> list[float]:
    """Train by one estimator; at each of the ``marks`` (steps) return the log of the gradient's variance."""
    torch.manual_seed(seed)
    model, stream = TwoLayers(grey.shape[1], grey.mean(0)), batches(grey)
    estimators = {node: contestants(grey.shape[1])[name]() for node in ("h1", "h2")}
    auxiliary = [p for e in estimators.values() for p in e.parameters()]
    groups = [{"params": list(model.parameters())}, {"params": auxiliary, "lr": 10 * learning_rate}]
    optimizer = torch.optim.Adam([g for g in groups if g["params"]], learning_rate)
    found = []
    for step in tqdm(range(1, max(marks) + 1), desc=f"(c) {name}", unit="step"):
        optimizer.zero_grad(set_to_none=True)
        model.loss(next(stream), estimators).mean().backward()
        optimizer.step()
        if step in marks:
            found.append(log_variance(model, estimators, stream, draws))
    return found


def log_variance(model: TwoLayers, estimators: dict[str, Estimator], stream: Iterator[Tensor], draws: int) -> float:
    """Return the log of the variance of the encoder's gradient, averaged over its parameters."""
    parameters = list(model.inference.parameters())
    for estimator in estimators.values():
        estimator.eval()
    first, second = 0.0, 0.0
    for _ in range(draws):
        gradients = torch.autograd.grad(model.loss(next(stream), estimators).mean(), parameters)
        flat = torch.cat([g.flatten() for g in gradients]).double()
        first, second = first + flat, second + flat.square()
    for estimator in estimators.values():
        estimator.train()
    variance = (second / draws - (first / draws) ** 2) * draws / (draws - 1)
    return math.log(variance.mean().item())


def table(
    grey: Tensor, names: list[str], marks: list[int], draws: int, seeds: list[int]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return a line for each estimator and mark with the log variance of each seed; then one for each gap."""
    found = {name: [log_variances(grey, name, marks, draws, seed) for seed in seeds] for name in names}
    lines, gaps = [], []
    for i, mark in enumerate(marks):
        for name in names:
            own = [run[i] for run in found[name]]
            lines.append({"step": mark, "estimator": name, "published": published(name, mark), **spread(own)})
        for worse, better in GAPS:
            if {worse, better} <= set(names):
                own = [a[i] - b[i] for a, b in zip(found[worse], found[better], strict=True)]
                theirs = [published(name, mark) for name in (worse, better)]
                gap = None if None in theirs else theirs[0] - theirs[1]
                gaps.append({"step": mark, "gap": f"{worse} - {better}", "published": gap, **spread(own)})
    return lines, gaps


def published(name: str, mark: int) -> float | None:
    """Return the published log variance, or None."""
    return PUBLISHED[name][MARKS.index(mark)] if name in PUBLISHED and mark in MARKS else None


def spread(values: list[float]) -> dict[str, Any]:
    """Return the values of the seeds, their mean, and its standard error where there are two or more."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return {"mean": statistics.mean(values), "standard_error": error, "seeds": values}
