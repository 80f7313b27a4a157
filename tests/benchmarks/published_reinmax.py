"""ReinMax's VAE of 4 latents of 8 categories on MNIST, trained as in the paper.

784-512-256-(4 x 8) and back, rectifiers, gray pixels as targets of a binary cross-entropy (no binarization), batches of
100, Adam at a constant 5e-4, 160 epochs over the 60,000 training images. The published figure is the mean over the last
epoch of minus the bound of each batch, before its step, with one draw an image; the test figure follows that epoch.

Liu, Dong, Liu, Yu and Gao (2023), Bridging Discrete and Backpropagation: Straight-Through and Beyond.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from reinmax_model import DiscreteVAE, divergence, posterior
from torch import Tensor
from tqdm.auto import tqdm

from vaekit import expectation
from vaekit.estimators import (
    DisARM,
    Estimator,
    GumbelRao,
    GumbelSoftmax,
    LeaveOneOut,
    ReinMax,
    ScoreFunction,
    StraightThrough,
    TemperatureSchedule,
)

BATCH, EPOCHS, LEARNING_RATE = 100, 160, 5e-4

# temperatures as tuned in the paper's repository for ReinMax, the papers' defaults for the others
ESTIMATORS: dict[str, Callable[[], Estimator]] = {
    "ReinMax": lambda: ReinMax(1.3),
    "ReinMax, temperature 1": lambda: ReinMax(1.0),
    "straight-through": StraightThrough,
    "ST Gumbel-Softmax": lambda: GumbelSoftmax(1.0, hard=True),
    "Gumbel-Rao": lambda: GumbelRao(1.0),
    "Gumbel-Softmax, annealed": lambda: GumbelSoftmax(TemperatureSchedule(1.0, 0.5)),
    "leave-one-out, 2": lambda: ScoreFunction(2, baseline=LeaveOneOut()),
    "DisARM": DisARM,
    "score function": ScoreFunction,
}
# minus the bound in nats, training and test. The second is of ReinMax-CV (Wang and Bui 2026), which is ReinMax with a
# control variate and is not here: it stands next to plain ReinMax
PUBLISHED = {"ReinMax": (124.7, None), "ReinMax, temperature 1": (124.94, 126.63)}


def loss(vae: DiscreteVAE, x: Tensor, estimator: Estimator) -> Tensor:
    """Return minus the bound of each image, ``[batch]``, in nats."""
    logits = vae.logits(x)
    return expectation(lambda z: vae.reconstruction(z, x), posterior(logits), estimator) + divergence(logits)


def run(train: Tensor, test: Tensor, name: str, epochs: int, seed: int) -> dict[str, Any]:
    """Train by one estimator; return minus the bound, averaged over the last epoch and on the test images."""
    torch.manual_seed(seed)
    vae, estimator = DiscreteVAE(train.shape[1]), ESTIMATORS[name]()
    optimizer = torch.optim.Adam(vae.parameters(), LEARNING_RATE, fused=True)
    mean, done, total = torch.zeros(()), 0, epochs * -(-len(train) // BATCH)
    for _ in (bar := tqdm(range(epochs), desc=f"ReinMax's VAE, {name}, seed {seed}", unit="epoch", file=sys.stderr)):
        mean = torch.zeros(())
        for rows in torch.randperm(len(train)).split(BATCH):
            estimator.update_schedule(done / total)
            found = loss(vae, train[rows], estimator)
            optimizer.zero_grad(set_to_none=True)
            found.mean().backward()
            optimizer.step()
            mean += found.detach().sum() / len(train)
            done += 1
        bar.set_postfix(train=f"{mean.item():.2f}")
    with torch.no_grad():
        held_out = torch.cat([loss(vae, x, exact(estimator)) for x in test.split(1000)]).mean()
    return {"train": mean.item(), "test": held_out.item(), "steps": done}


def exact(estimator: Estimator) -> Estimator:
    """Return an estimator that draws discrete values, for a relaxed one; else itself."""
    return estimator if estimator.unbiased_value else ScoreFunction()
