"""Linear VAEs of binary and categorical latents: the models of Jang et al. (2017) and Grathwohl et al. (2018).

Jang's have one stochastic layer and a learned prior: 784 - 200 bits - 784, and 784 - (20 x 10) - 200 - 784. RELAX's
have one linear layer of 200 bits, ``x -> h -> x``, or two (``two_layer_model.py``), the encoder seeing ``x`` less its
mean.
What the papers leave open is settled here: the fixed binarization of Larochelle; tanh units in the
deterministic layer; Adam for Jang's too, at a rate chosen for each estimator on validation images, where the paper has
momentum; no variance normalization; MuProp with a learned baseline of the image, as Gu et al. (2016) have it. Jang's
temperature falls from 1 to 0.5 over the steps that are run, however few.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Bernoulli, Distribution, Independent, OneHotCategorical
from torch.distributions.kl import kl_divergence
from tqdm.auto import tqdm
from two_layer_model import TwoLayers, start
from two_layer_rivals import Ours
from two_layer_rivals import control_variate as network

from vaekit import expectation
from vaekit.estimators import (
    ARM,
    REBAR,
    RELAX,
    DisARM,
    Estimator,
    GumbelSoftmax,
    LearnedBaseline,
    LeaveOneOut,
    MovingAverage,
    MuProp,
    ReinMax,
    ScoreFunction,
    StraightThrough,
    TemperatureSchedule,
)

BITS, VARIABLES, CATEGORIES = 200, 20, 10


class OneLayer(nn.Module):
    """A VAE with one layer of bits or of categories, and a learned prior.

    Parameters
    ----------
    mean
        Mean of the training images, ``[pixels]``, whose logits are the output's offset.
    categorical
        Whether the latents are 20 categories of 10, decoded through 200 tanh units; else 200 bits.
    centered
        Whether the networks see ``x`` less its mean and bits as -1 and 1, and start as REBAR's do.
    """

    def __init__(self, mean: Tensor, categorical: bool, centred: bool) -> None:
        super().__init__()
        pixels, self.categorical, self.centred, self.mean = len(mean), categorical, centred, mean
        size = VARIABLES * CATEGORIES if categorical else BITS
        self.encoder = nn.Linear(pixels, size)
        hidden = [nn.Linear(size, 200), nn.Tanh()] if categorical else []
        self.decoder = nn.Sequential(*hidden, nn.Linear(200, pixels))
        self.prior_logits = nn.Parameter(torch.zeros(VARIABLES, CATEGORIES) if categorical else torch.zeros(BITS))
        self.offset = mean.clamp(0.001, 0.999).logit()
        if centred:
            start(self.encoder)
            start(self.decoder[-1])

    def posterior(self, x: Tensor) -> Distribution:
        """Return q(z | x)."""
        logits = self.encoder(x - self.mean if self.centred else x)
        return self.vector(logits.unflatten(-1, (VARIABLES, CATEGORIES)) if self.categorical else logits)

    def vector(self, logits: Tensor) -> Distribution:
        """Return independent bits or categories."""
        base = OneHotCategorical if self.categorical else Bernoulli
        return Independent(base(logits=logits, validate_args=False), 1, validate_args=False)

    def reconstruction(self, z: Tensor, x: Tensor) -> Tensor:
        """Return -log p(x | z), ``[*rows, batch]``."""
        logits = self.decoder(z.flatten(-2) if self.categorical else 2 * z - 1 if self.centred else z) + self.offset
        return (F.softplus(logits) - x * logits).sum(-1)

    def loss(self, x: Tensor, estimators: dict[str, Estimator]) -> Tensor:
        """Return minus the evidence lower bound, ``[batch]``, in nats; its KL divergence is exact."""
        q = self.posterior(x)
        kl = kl_divergence(q, self.vector(self.prior_logits).expand(q.batch_shape))
        return expectation(lambda z: self.reconstruction(z, x), q, estimators["z"], context=x - self.mean) + kl


class TwoLinearLayers(TwoLayers):
    """RELAX's two layers, each with an estimator and credited with what it influences."""

    def loss(self, x: Tensor, estimators: dict[str, Estimator]) -> Tensor:
        """Return minus the evidence lower bound, ``[batch]``, in nats."""
        return Ours(estimators["h1"], estimators["h2"])(self, x)


class Split(NamedTuple):
    """Binary images, float32 ``[images, pixels]``."""

    train: Tensor
    val: Tensor
    test: Tensor


Maker = Callable[[int], Estimator]  # from the number of pixels


JANG: dict[str, Maker] = {
    "score function": lambda pixels: ScoreFunction(),
    "score, moving average": lambda pixels: ScoreFunction(baseline=MovingAverage()),
    "leave-one-out, 2": lambda pixels: ScoreFunction(2, baseline=LeaveOneOut()),
    "DisARM": lambda pixels: DisARM(),
    "MuProp": lambda pixels: MuProp(baseline=LearnedBaseline(network(pixels))),
    "REBAR": lambda pixels: REBAR(),
    "RELAX": lambda pixels: RELAX(network(200 + pixels)),
    "straight-through": lambda pixels: StraightThrough(),
    "Gumbel-Softmax": lambda pixels: GumbelSoftmax(TemperatureSchedule(1.0, 0.5, fraction=1.0)),
    "ST Gumbel-Softmax": lambda pixels: GumbelSoftmax(TemperatureSchedule(1.0, 0.5, fraction=1.0), hard=True),
    "ReinMax": lambda pixels: ReinMax(),
}
LINEAR: dict[str, Maker] = {
    "Concrete": lambda pixels: GumbelSoftmax(0.5),
    "NVIL": lambda pixels: ScoreFunction(baseline=LearnedBaseline(network(pixels))),
    "leave-one-out, 2": lambda pixels: ScoreFunction(2, baseline=LeaveOneOut()),
    "ARM": lambda pixels: ARM(),
    "DisARM": lambda pixels: DisARM(),
    "MuProp": lambda pixels: MuProp(baseline=LearnedBaseline(network(pixels))),
    "REBAR": lambda pixels: REBAR(),
    "RELAX": lambda pixels: RELAX(network(200 + pixels)),
}


def batches(x: Tensor, size: int) -> Iterator[Tensor]:
    """Yield mini-batches of shuffled images without end."""
    while True:
        for rows in torch.randperm(len(x)).split(size):
            if len(rows) == size:
                yield x[rows]


def run(
    make: Callable[[], nn.Module],
    estimators: dict[str, Estimator],
    data: Split,
    steps: int,
    batch: int,
    learning_rate: float,
    description: str,
) -> dict[str, Any]:
    """Train; return minus the discrete bound on training (as many as test), validation and test images, in nats.

    The estimators' own parameters learn ten times as fast, in a group of their own. A training that diverges gives
    infinity.
    """
    model = make()
    auxiliary = [p for e in estimators.values() for p in e.parameters()]
    groups = [{"params": list(model.parameters())}, {"params": auxiliary, "lr": 10 * learning_rate}]
    optimizer = torch.optim.Adam([g for g in groups if g["params"]], learning_rate, fused=True)
    stream = batches(data.train, min(batch, len(data.train)))
    bar = tqdm(range(steps), desc=description, unit="step", file=sys.stderr, mininterval=2, leave=False)
    for step, x in zip(bar, stream, strict=False):
        for estimator in estimators.values():
            estimator.update_schedule(step / steps)
        cost = model.loss(x, estimators).mean()  # type: ignore[operator]
        optimizer.zero_grad(set_to_none=True)
        cost.backward()
        optimizer.step()
    # every test image once; as many training images, the first ones, which is enough for a tenth of a nat
    return {name: bound(model, part[: len(data.test)], list(estimators)) for name, part in data._asdict().items()}


@torch.no_grad()
def bound(model: nn.Module, x: Tensor, nodes: list[str]) -> float:
    """Return the mean of minus the bound with one discrete draw an image; infinity where it is not a number."""
    drawn: dict[str, Estimator] = {name: ScoreFunction() for name in nodes}
    value = torch.cat([model.loss(part, drawn) for part in x.split(1000)]).mean().item()  # type: ignore[operator]
    return value if math.isfinite(value) else math.inf


def chosen_rate(
    make: Callable[[], nn.Module],
    estimators: Callable[[], dict[str, Estimator]],
    data: Split,
    steps: int,
    batch: int,
    rates: list[float],
    description: str,
) -> float:
    """Return the learning rate that is best on validation images after ``steps`` steps from seed 0."""
    if len(rates) == 1:
        return rates[0]
    found = {}
    for rate in rates:
        torch.manual_seed(0)
        found[rate] = run(make, estimators(), data, steps, batch, rate, f"{description}, rate {rate:g}")["val"]
    return min(found, key=found.__getitem__)
