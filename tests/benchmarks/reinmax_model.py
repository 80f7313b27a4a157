"""The VAE of the ReinMax paper, small enough to sum over its states: networks, training, exact gradient."""

from __future__ import annotations

import gzip
import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Independent, OneHotCategorical
from tqdm.auto import tqdm

from vaekit import expectation
from vaekit.estimators import Estimator

LATENTS, CATEGORIES, HIDDEN = 4, 8, (512, 256)
STATES = CATEGORIES**LATENTS
STATE_CHUNK = 512  # states decoded at a time


def perceptron(*sizes: int) -> nn.Sequential:
    """Return linear layers with rectifiers between them."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class DiscreteVAE(nn.Module):
    """The networks, and the parts of minus the evidence lower bound in nats."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.encoder = perceptron(pixels, *HIDDEN, LATENTS * CATEGORIES)
        self.decoder = perceptron(LATENTS * CATEGORIES, *reversed(HIDDEN), pixels)

    def logits(self, x: Tensor) -> Tensor:
        """Return the posterior's logits, ``[batch, latents, categories]``."""
        return self.encoder(x).unflatten(-1, (LATENTS, CATEGORIES))

    def reconstruction(self, z: Tensor, x: Tensor) -> Tensor:
        """Return minus the log-likelihood, ``[*rows, batch]``."""
        pixels = self.decoder(z.flatten(-2))
        return F.softplus(pixels).sum(-1) - (pixels * x).sum(-1)


def posterior(logits: Tensor) -> Independent:
    """Return the distribution of the latents."""
    return Independent(OneHotCategorical(logits=logits, validate_args=False), 1, validate_args=False)


def divergence(logits: Tensor) -> Tensor:
    """Return KL(q | uniform), ``[batch]``."""
    log_q = logits.log_softmax(-1)
    return (log_q.exp() * (log_q + math.log(CATEGORIES))).sum((-1, -2))


def images(folder: Path | None) -> Tensor:
    """Return gray levels in 0..1, ``[images, pixels]``: MNIST's training images, or scikit-learn's digits."""
    if folder is None:
        from sklearn.datasets import load_digits

        return torch.from_numpy(load_digits().data).float() / 16
    with gzip.open(folder / "train-images-idx3-ubyte.gz") as file:
        raw = np.frombuffer(file.read(), np.uint8, offset=16)
    return torch.from_numpy(raw.copy()).reshape(-1, 784).float() / 255


def batches(grey: Tensor, size: int) -> Iterator[Tensor]:
    """Yield batches of shuffled images, binarized by chance, without end."""
    while True:
        for rows in torch.randperm(len(grey)).split(size):
            if len(rows) == size:
                yield torch.bernoulli(grey[rows])


def train(vae: DiscreteVAE, stream: Iterator[Tensor], steps: int, estimator: Estimator) -> float:
    """Train by an estimator; return the bound of the last batch."""
    optimizer, loss = torch.optim.Adam(vae.parameters(), 1e-3), torch.zeros(())
    for _ in tqdm(range(steps), desc="(d) training", unit="step"):
        x = next(stream)
        logits = vae.logits(x)
        cost = expectation(lambda z, x=x: vae.reconstruction(z, x), posterior(logits), estimator)
        loss = (cost + divergence(logits)).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return -loss.item()


def digits(states: Tensor) -> Tensor:
    """Return the category of each latent in the states of these numbers, the first latent varying slowest."""
    return states[..., None] // powers(states) % CATEGORIES


def powers(like: Tensor) -> Tensor:
    """Return what a category of each latent adds to the number of a state."""
    return CATEGORIES ** torch.arange(LATENTS - 1, -1, -1, device=like.device)


@torch.no_grad()
def table_of_costs(vae: DiscreteVAE, x: Tensor) -> Tensor:
    """Return minus the log-likelihood at all states, ``[states, batch]``."""
    found = []
    for chunk in torch.arange(STATES).split(STATE_CHUNK):
        pixels = vae.decoder(F.one_hot(digits(chunk), CATEGORIES).float().flatten(-2))
        found.append(F.softplus(pixels).sum(-1, keepdim=True) - pixels @ x.T)
    return torch.cat(found)


def state_of(z: Tensor) -> Tensor:
    """Return the number of the state of one-hot values, ``[*rows, batch]``."""
    return (z.argmax(-1) * powers(z)).sum(-1)


def exact_gradient(logits: Tensor, table: Tensor) -> Tensor:
    """Return the gradient at the logits of the mean over the batch of E[cost] + KL, in float64."""
    leaf = logits.double().requires_grad_()
    total = torch.zeros(len(leaf), dtype=torch.float64)
    log_q = leaf.log_softmax(-1)
    for chunk, costs in zip(torch.arange(STATES).split(STATE_CHUNK), table.split(STATE_CHUNK), strict=True):
        log_prob = log_q[:, torch.arange(LATENTS), digits(chunk)].sum(-1)  # [batch, chunk]
        total = total + (log_prob.exp() * costs.T.double()).sum(-1)
    return torch.autograd.grad((total + divergence(leaf)).mean(), leaf)[0]


@torch.no_grad()
def metric(encoder: nn.Sequential, x: Tensor) -> Tensor:
    """Return J J^T for the encoder's parameters, ``[batch * logits] * 2``, in float64."""
    layers = [layer for layer in encoder if isinstance(layer, nn.Linear)]
    inputs = [x.double()]
    for layer in layers[:-1]:
        inputs.append(F.relu(inputs[-1] @ layer.weight.double().T + layer.bias.double()))
    outputs = layers[-1].out_features
    sensitivity = torch.eye(outputs, dtype=torch.float64).expand(len(x), -1, -1)  # of the logits, to a layer's output
    result = torch.zeros(len(x), outputs, len(x), outputs, dtype=torch.float64)
    for layer, value in reversed(list(zip(layers, inputs, strict=True))):
        flat = sensitivity.flatten(0, 1)
        result += (flat @ flat.T).view_as(result) * (value @ value.T + 1)[:, None, :, None]
        sensitivity = (sensitivity @ layer.weight.double()) * (value > 0)[:, None, :]
    return result.flatten(2).flatten(0, 1)
