"""The estimators that are compared on two layers of bits: ours, and those of REBAR's repository written out.

A rival maps the model and a mini-batch to minus the evidence lower bound, ``[batch]``, whose gradient is the estimate;
its own parameters (baselines, scales, control variates) get their gradient from the same tensor.

What REBAR's repository calls NVIL is less than NVIL as Mnih and Gregor (2014) have it. Its signal is the bound of the
whole network for both layers, less one network's prediction from the centered pixels, which nothing standardizes and
which starts far below the bound's size: no signals of a layer's own, no centring, no division by the deviation. The
rows from "NVIL" to "NVIL, standardized" put these back. Its MuProp has the same baseline and learned scales; ours is
shown without a baseline and with a standardized one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from two_layer_model import HIDDEN, TwoLayers, bits, log_prob, start

from vaekit import expectation
from vaekit.estimators import REBAR, RELAX, Estimator, LearnedBaseline, MovingAverage, MuProp, NodeSample, ScoreFunction
from vaekit.estimators.baselines import Baseline
from vaekit.estimators.conditional_noise import ConditionalNoise

FOLLOWED = "SimpleMuProp"  # the estimator that trains the model


class Raw(Baseline):
    """A network's prediction of the cost, as it comes out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, sample: NodeSample, cost: Tensor) -> Tensor:
        """Return the prediction, ``[batch]``."""
        assert sample.context is not None
        return self.network(sample.context).squeeze(-1)

    def loss(self, cost: Tensor, baseline: Tensor) -> Tensor:
        """Return the squared error."""
        return (cost - baseline).square()


class Ours(nn.Module):
    """Our estimators, one a layer.

    ``local``: each layer is credited with the terms that it influences, and not with the whole bound.
    """

    def __init__(self, first: Estimator, second: Estimator, local: bool = True) -> None:
        super().__init__()
        self.estimators, self.local = nn.ModuleDict({"h1": first, "h2": second}), local

    def forward(self, model: TwoLayers, x: Tensor) -> Tensor:
        """Return minus the evidence lower bound."""
        first = model.first(x)
        q = {"h1": bits(first), "h2": lambda h1: bits(model.second(h1))}
        # the parameters of log q have no gradient of their own: the score's mean is zero
        terms = {
            "x": lambda h1: -model.log_likelihood(h1, x),
            "h1": lambda h1, h2: log_prob(first.detach(), h1) - model.log_first(h1, h2),
            "h2": lambda h1, h2: log_prob(model.second(h1, fixed=True), h2) - model.log_second(h2),
        }
        if not self.local:
            parts = dict(terms)
            terms = {"all": lambda h1, h2: parts["x"](h1) + parts["h1"](h1, h2) + parts["h2"](h1, h2)}
        return expectation(terms, q, dict(self.estimators.items()), context=x - model.mean)


class TightRebar(REBAR):
    """REBAR with the relaxation of the repository, whose limit for high temperatures is MuProp's mean; bits alone.

    ``y = sigmoid(z / t + logits t / (1 + t))`` for perturbed logits z.
    """

    def relax(self, noise: ConditionalNoise) -> Tensor:
        """Return the relaxed values, of the free noise and of that given the value."""
        shift = noise.logits * self.temperature / (1 + self.temperature)
        return torch.cat([(z / self.temperature + shift).sigmoid() for z in (noise.perturbed, noise.conditional)])


class Published(nn.Module):
    """SimpleMuProp of REBAR's repository: the mean-field bound and a network from the pixels as baselines."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.baseline = baseline(pixels)
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, model: TwoLayers, x: Tensor) -> Tensor:
        """Return minus the evidence lower bound."""
        logits, values = hard(model, x)
        log_q, log_p = log_probs(model, x, logits, values)
        bound = (log_p - sum(log_q)).detach()
        with torch.no_grad():
            at_mean = bound_at_mean(model, x)[0]
        signal = bound - doubled(self.scale) * at_mean - self.baseline(x - model.mean).squeeze(-1)
        surrogate = signal.square() - signal.detach() * sum(log_q) - log_p
        return surrogate - surrogate.detach() - bound


class PublishedMuProp(nn.Module):
    """MuProp of REBAR's repository: a slope at the mean field too, scales and a network for each layer."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        self.baselines = nn.ModuleList([baseline(pixels), baseline(pixels)])
        self.scales = nn.Parameter(torch.zeros(2, 2))

    def forward(self, model: TwoLayers, x: Tensor) -> Tensor:
        """Return minus the evidence lower bound."""
        logits, values = hard(model, x)
        log_q, log_p = log_probs(model, x, logits, values)
        bound = (log_p - sum(log_q)).detach()
        at_mean, means = bound_at_mean(model, x)
        slopes = torch.autograd.grad(at_mean.sum(), means)
        surrogate = -log_p
        for i, slope in enumerate(slopes):
            constant, linear = doubled(self.scales[i])
            step = (slope * (values[i] - means[i].detach())).sum(-1)
            signal = bound - constant * at_mean.detach() - linear * step - self.baselines[i](x - model.mean).squeeze(-1)
            expected = (slope * logits[i].sigmoid()).sum(-1)
            surrogate = surrogate + signal.square() - signal.detach() * log_q[i] - linear.detach() * expected
        return surrogate - surrogate.detach() - bound


def hard(model: TwoLayers, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Return the logits and a sample of both layers."""
    first = model.first(x)
    h1 = bits(first).sample()
    second = model.second(h1)
    return [first, second], [h1, bits(second).sample()]


def log_probs(model: TwoLayers, x: Tensor, logits: list[Tensor], values: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    """Return log q of each layer, and log p of all."""
    log_q = [log_prob(own, value) for own, value in zip(logits, values, strict=True)]
    log_p = model.log_likelihood(values[0], x) + model.log_first(*values) + model.log_second(values[1])
    return log_q, log_p


def bound_at_mean(model: TwoLayers, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the bound where each layer has its mean given the mean of the one before, and these means."""
    first = model.first(x)
    mean_1 = first.sigmoid()
    second = model.second(mean_1)
    means = [mean_1, second.sigmoid()]
    log_q, log_p = log_probs(model, x, [first, second], means)
    return log_p - sum(log_q), means


def doubled(raw: Tensor) -> Tensor:
    """Return a scale between 0 and 2, 1 at the start."""
    return 2 * raw.sigmoid()


def baseline(pixels: int) -> nn.Module:
    """Return the baseline of REBAR's repository, which starts as the model's layers do."""
    made = nn.Sequential(nn.Linear(pixels, 100), nn.Tanh(), nn.Linear(100, 1))
    start(made[0])
    start(made[2])
    return made


def control_variate(inputs: int) -> nn.Module:
    """Return a network whose output starts at 0."""
    made = nn.Sequential(nn.Linear(inputs, 100), nn.Tanh(), nn.Linear(100, 1))
    nn.init.zeros_(made[2].weight)
    nn.init.zeros_(made[2].bias)
    return made


def pair(make: Callable[[], Estimator]) -> Ours:
    """Return a rival that has an estimator for each layer, credited with what that layer influences."""
    return Ours(make(), make())


def shared(estimator: Estimator) -> Ours:
    """Return a rival that has one estimator, with one baseline, for both layers, credited with the whole bound."""
    return Ours(estimator, estimator, local=False)


def contestants(pixels: int) -> dict[str, nn.Module]:
    """Return the rivals.

    The repository has its own "NVIL", "SimpleMuProp" and "MuProp"; "REBAR" learns scale and temperature, which is
    "DynamicREBAR" there, and "REBAR, .5" keeps both, which is "REBAR" there except that the latter also has
    the baseline of its NVIL and learned scales.
    """
    return {
        "NVIL": shared(ScoreFunction(baseline=Raw(baseline(pixels)))),
        "NVIL, local": pair(lambda: ScoreFunction(baseline=Raw(baseline(pixels)))),
        "NVIL, standardised": pair(lambda: ScoreFunction(baseline=LearnedBaseline(control_variate(pixels)))),
        "moving average": pair(lambda: ScoreFunction(baseline=MovingAverage())),
        "SimpleMuProp": Published(pixels),
        "MuProp": PublishedMuProp(pixels),
        "MuProp, no baseline": pair(MuProp),
        "MuProp, standardised": pair(lambda: MuProp(baseline=LearnedBaseline(control_variate(pixels)))),
        "REBAR, .5": pair(lambda: TightRebar(learnable=False)),
        "REBAR": pair(REBAR),
        "RELAX": pair(lambda: RELAX(control_variate(HIDDEN + pixels))),
    }
