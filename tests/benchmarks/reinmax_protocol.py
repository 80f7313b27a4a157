"""The protocol of the ReinMax paper: bias, deviation and cosine of gradients of a VAE whose states can be summed.

A VAE 784-512-256-(4 latents x 8 categories) with a mirrored decoder has 8^4 = 4096 states, so that the gradient of its
encoder is known exactly. The decoder's log-likelihood at all states is computed once, in chunks; estimators that do
not differentiate the cost look it up.

An encoder's gradient is J^T g, with g the gradient at its logits and J its Jacobian. All that is requested are inner
products of such gradients, and (J^T a) . (J^T b) = a^T (J J^T) b, where J J^T is one matrix over the logits of the
batch. So an estimate costs no backward pass through the encoder, and the figures are the ones of all its parameters.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from reinmax_model import CATEGORIES, LATENTS, DiscreteVAE, divergence, exact_gradient, metric, posterior, state_of
from reinmax_model import table_of_costs as table_of
from torch import Tensor, nn
from tqdm.auto import tqdm

from vaekit import expectation
from vaekit.estimators import (
    REBAR,
    RELAX,
    DisARM,
    Estimator,
    GumbelRao,
    GumbelSoftmax,
    LeaveOneOut,
    LocalExpectation,
    MeasureValued,
    RaoBlackwell,
    ReinMax,
    ScoreFunction,
    StraightThrough,
    UnorderedSet,
)
from vaekit.exceptions import EstimatorError

DECODED, LOOKED_UP = 2000, 50_000  # images at a time, about


def contestants() -> dict[str, Callable[[], Estimator]]:
    """Return makers of the estimators."""
    size = LATENTS * CATEGORIES
    return {
        "score function": ScoreFunction,
        "leave-one-out, 2": lambda: ScoreFunction(2, baseline=LeaveOneOut()),
        "leave-one-out, 4": lambda: ScoreFunction(4, baseline=LeaveOneOut()),
        "DisARM": DisARM,
        "REBAR": REBAR,
        "RELAX": lambda: RELAX(control_variate(size)),
        "local expectation": LocalExpectation,
        "Rao-Blackwell, 8 + 1": lambda: RaoBlackwell(num_exact=8),
        "unordered set, 4": lambda: UnorderedSet(num_samples=4),
        "measure-valued": MeasureValued,
        "straight-through": StraightThrough,
        "Gumbel-Softmax, 1": lambda: GumbelSoftmax(1.0),
        "Gumbel-Softmax, .5": lambda: GumbelSoftmax(0.5),
        "ST Gumbel, 1": lambda: GumbelSoftmax(1.0, hard=True),
        "ST Gumbel, .5": lambda: GumbelSoftmax(0.5, hard=True),
        "Gumbel-Rao, 1": lambda: GumbelRao(1.0),
        "Gumbel-Rao, .5": lambda: GumbelRao(0.5),
        "ReinMax, 1": lambda: ReinMax(1.0),
        "ReinMax, 1.1": lambda: ReinMax(1.1),
        "ReinMax, 1.3": lambda: ReinMax(1.3),
    }


def control_variate(inputs: int) -> nn.Module:
    """Return a network whose output starts at 0."""
    made = nn.Sequential(nn.Linear(inputs, 100), nn.Tanh(), nn.Linear(100, 1))
    nn.init.zeros_(made[2].weight)
    nn.init.zeros_(made[2].bias)
    return made


class Problem:
    """A batch with its exact gradient, in the metric of the encoder's parameters.

    Attributes
    ----------
    exact
        Gradient at the logits of the mean of minus the evidence lower bound, flat, in float64.
    gram
        J J^T of the encoder's Jacobian.
    """

    def __init__(self, vae: DiscreteVAE, x: Tensor) -> None:
        for parameter in vae.decoder.parameters():
            parameter.requires_grad_(False)
        self.vae, self.x, self.logits, self.table = vae, x, vae.logits(x).detach(), table_of(vae, x)
        self.exact = exact_gradient(self.logits, self.table).flatten()
        self.gram = metric(vae.encoder, x)
        leaf = self.logits.double().requires_grad_()
        self.of_divergence = torch.autograd.grad(divergence(leaf).mean(), leaf)[0].flatten()

    def cost(self, estimator: Estimator) -> Callable[[Tensor], Tensor]:
        """Return minus the log-likelihood as a function of the latents: looked up where no path is needed."""
        if estimator.requires_differentiable_cost:
            return lambda z: self.vae.reconstruction(z, self.x)
        images = torch.arange(len(self.x))
        return lambda z: self.table[state_of(z), images]

    @staticmethod
    def lists_states(estimator: Estimator) -> bool:
        """Return whether an estimate takes a look at all states of each image, and so is slow."""
        return isinstance(estimator, RaoBlackwell | UnorderedSet)

    def replicas(self, estimator: Estimator) -> int:
        """Return how many estimates to make at a time."""
        rows = estimator.num_evaluations(posterior(self.logits)) * len(self.x)
        if self.lists_states(estimator):
            return 2
        return max(1, (DECODED if estimator.requires_differentiable_cost else LOOKED_UP) // rows)

    def adapt(self, estimator: Estimator, steps: int) -> None:
        """Train the estimator's own parameters, if it has any, on this batch."""
        own = list(estimator.parameters())
        if own:
            optimizer = torch.optim.Adam(own, 3e-3)
            for _ in range(steps):
                optimizer.zero_grad()
                leaf = self.logits.clone().requires_grad_()
                expectation(self.cost(estimator), posterior(leaf), estimator).mean().backward()
                optimizer.step()
        estimator.eval()

    def estimates(self, estimator: Estimator, count: int) -> Iterator[Tensor]:
        """Yield gradients at the logits, ``[some, batch * logits]``, ``count`` in all."""
        size, cost = self.replicas(estimator), self.cost(estimator)
        for start in range(0, count, size):
            leaf = self.logits.expand(min(size, count - start), *self.logits.shape).clone().requires_grad_()
            (found,) = torch.autograd.grad(expectation(cost, posterior(leaf), estimator).mean(-1).sum(), leaf)
            yield found.flatten(1).double() + self.of_divergence

    def inner(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the inner product of two gradients of the encoder, given at the logits."""
        return ((a @ self.gram) * b).sum(-1)


def quality(problem: Problem, estimator: Estimator, count: int) -> dict[str, float]:
    """Return bias, deviation and cosine, as fractions of the exact gradient's norm, from ``count`` estimates.

    The squared distance of their mean from the exact gradient is lessened by what chance adds to it. The z-score
    projects the second half of the estimates on the direction of bias that the first half shows.
    """
    exact = problem.exact
    toward = exact @ problem.gram
    norm = (toward @ exact).sqrt()
    total, squares, cosines = torch.zeros_like(exact), [], []
    for found in problem.estimates(estimator, count // 2):
        total += found.sum(0)
        squares.append(problem.inner(found, found))
        cosines.append(found @ toward / (squares[-1].sqrt() * norm))
    direction = (total / (count // 2) - exact) @ problem.gram
    projections = []
    for found in problem.estimates(estimator, count // 2):
        total += found.sum(0)
        squares.append(problem.inner(found, found))
        cosines.append(found @ toward / (squares[-1].sqrt() * norm))
        projections.append((found - exact) @ direction)
    count = 2 * (count // 2)
    mean, along = total / count, torch.cat(projections)
    scatter = (torch.cat(squares).mean() - problem.inner(mean, mean)) * count / (count - 1)
    chance = scatter / count
    bias = (problem.inner(mean - exact, mean - exact) - chance).clamp_min(0).sqrt()
    length = (problem.inner(mean, mean) - chance).clamp_min(0).sqrt()
    return {
        "bias": (bias / norm).item(),
        "noise": (chance.sqrt() / norm).item(),
        "z": (along.mean() / (along.std() / math.sqrt(len(along)))).item(),
        "deviation": (scatter.clamp_min(0).sqrt() / norm).item(),
        "cosine": torch.cat(cosines).mean().item(),
        "cosine_of_mean": (mean @ toward / (length * norm).clamp_min(1e-300)).clamp(-1, 1).item(),
    }


def check_metric(problem: Problem) -> None:
    """Stop unless the metric gives the norm that autograd gives."""
    logits = problem.vae.logits(problem.x)
    parameters = list(problem.vae.encoder.parameters())
    found = torch.autograd.grad(logits, parameters, problem.exact.view_as(logits).to(logits.dtype))
    by_autograd = sum(g.double().square().sum() for g in found)
    torch.testing.assert_close(by_autograd, problem.inner(problem.exact, problem.exact), rtol=1e-3, atol=0)


def table(problem: Problem, count: int, steps: int) -> list[dict[str, Any]]:
    """Return a line for each estimator; one that rejects the node says so."""
    check_metric(problem)
    lines = []
    for name, make in (bar := tqdm(contestants().items(), desc="(d) estimators", file=sys.stderr)):
        bar.set_postfix_str(name)
        estimator = make()
        line: dict[str, Any] = {"estimator": name, "unbiased": estimator.unbiased}
        try:
            line["evaluations"] = estimator.num_evaluations(posterior(problem.logits))
            problem.adapt(estimator, steps)
            own = max(100, count // 10) if problem.lists_states(estimator) else count
            line |= {"estimates": own, **quality(problem, estimator, own)}
        except EstimatorError as error:
            line["refused"] = str(error)
        lines.append(line)
    return lines
