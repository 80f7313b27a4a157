"""The IWAE paper's model of one stochastic layer, trained by the ELBO and by the importance-weighted bound.

784-200-200-(50 Gaussian)-200-200-784 with tanh units, dynamically binarized MNIST, batches of 20, Adam with an epsilon
of 1e-4.
The paper trains for 3,280 epochs with a rate that falls from 1e-3 by 10^(-1/7) after 1, 3, 9, ... 3^7 epochs; here it
falls in the same steps, shared out over the epochs that are requested. Test log-likelihood by importance sampling; how
long it takes is reported by the clock and in the processor's time, which is the one to look at on a machine in use.

Burda, Grosse and Salakhutdinov (2016), Importance Weighted Autoencoders, table 1.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from vaekit.batch import Batch, DataStatistics
from vaekit.diagnostics import importance_sampled_log_likelihood
from vaekit.latents import Gaussian
from vaekit.likelihoods import Bernoulli
from vaekit.models import VAE
from vaekit.models.objectives import ELBO, IWAE, Objective
from vaekit.networks import Network

BATCH, UNITS, HIDDEN, STAGES = 20, 50, 200, 8
OBJECTIVES: dict[str, Callable[[], Objective]] = {"VAE": ELBO, "IWAE, 5": IWAE}
PUBLISHED = {"VAE": 86.76, "IWAE, 5": 85.54}  # minus the test log-likelihood, 5,000 samples


class Tanh(Network):
    """Two linear layers with tanh units."""

    def build(self, in_features: int) -> int:
        """Create the layers (see the base class)."""
        self.layers = nn.Sequential(nn.Linear(in_features, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh())
        return HIDDEN

    def forward(self, x: Tensor) -> Tensor:
        """Return the last layer's activations."""
        return self.layers(x)


def stages(epochs: int) -> list[int]:
    """Return the stage of each epoch: 8 of lengths 1, 3, 9, ..., shared out; short runs skip the first ones.

    Examples
    --------
    >>> stages(3280)[:5], stages(3280)[-1]
    ([0, 1, 1, 1, 2], 7)
    """
    total = sum(3**i for i in range(STAGES))
    ends = [sum(3**j for j in range(i + 1)) / total for i in range(STAGES)]
    return [next(i for i, end in enumerate(ends) if (epoch + 0.5) / epochs <= end) for epoch in range(epochs)]


def run(train: Tensor, test: Tensor, name: str, epochs: int, seed: int, samples: int, batch: int) -> dict[str, Any]:
    """Train on images binarized again each time; return minus test bound (as ``train``) and test log-likelihood."""
    torch.manual_seed(seed)
    latents: Any = {"z": Gaussian(UNITS)}
    model = VAE(train.shape[1], Tanh(), latents, Tanh(), Bernoulli(), objective=OBJECTIVES[name]())
    model.networks.likelihood.init_from_data(DataStatistics(train.mean(0)))
    optimizer = torch.optim.Adam(model.parameters(), 1e-3, eps=1e-4, fused=True)
    for stage in (bar := tqdm(stages(epochs), desc=f"{name}, seed {seed}", unit="epoch", file=sys.stderr)):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * 10 ** (-stage / 7)
        for rows in torch.randperm(len(train)).split(batch):
            loss = model.loss(Batch(torch.bernoulli(train[rows])), training=True).total.mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
        bar.set_postfix(last=f"{loss.item():.2f}")
    torch.manual_seed(1)  # the same binarization for all
    batches = [Batch(part) for part in torch.bernoulli(test).split(100)]
    start, used = time.perf_counter(), time.process_time()
    found = importance_sampled_log_likelihood(
        model, tqdm(batches, desc="test log-likelihood", file=sys.stderr), samples
    )
    return {
        "train": -found.elbo.mean().item(),
        "test": -found.mean(),
        "error_over_images": found.standard_error(),
        "test_seconds": time.perf_counter() - start,
        "test_processor_seconds": time.process_time() - used,
        "steps": epochs * -(-len(train) // batch),
    }
