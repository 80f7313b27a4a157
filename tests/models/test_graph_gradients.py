"""Gradients of three-node graphs of each shape, against quadrature and enumeration.

By z-score: the replicates are backward passes over many copies of two images, and each parameter tensor is looked at
along the exact gradient and along a random direction. A case has at most 40 scores with |z| < 4.5. A false alarm has a
probability of 0.03 % per case and of 1 % for all of them together, and the seeds are fixed. The median standard error
along the exact gradient is below 6 % of its norm at full strength.
"""

from __future__ import annotations

import math

import pytest
import torch
from strength import strengths
from torch import Tensor

from vaekit.estimators import Estimator, LeaveOneOut, Pathwise, ScoreFunction
from vaekit.models import VAE
from vaekit.models.objectives import ELBO, IWAE, Objective

from .graph_oracle import GRAPHS, PAIRS, build, directions, images, list_points

REPLICATES, COPIES, KL_WEIGHT, LIMIT = 40, 1000, 0.7, 4.5

# estimators of Gaussians and of categories, and the objective
ESTIMATORS: dict[str, tuple[dict[bool, Estimator | str], Objective | None]] = {
    "auto": ({True: "auto", False: "auto"}, None),
    "joint": ({True: Pathwise(), False: ScoreFunction(baseline=LeaveOneOut())}, ELBO(num_samples=3)),
    "scores": (dict.fromkeys((True, False), ScoreFunction(2, baseline=LeaveOneOut())), None),
}


def exact_gradients(model: VAE, loss: Tensor) -> dict[str, Tensor]:
    parameters = dict(model.named_parameters())
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    assert all(g is not None for g in found)
    return {name: g.flatten() for name, g in zip(parameters, found, strict=True)}


def sampled_gradients(model: VAE, copies: int) -> dict[str, Tensor]:
    """Return independent estimates, ``[replicates, size]``."""
    runs = []
    for _ in range(REPLICATES):
        model.zero_grad()
        model.loss(images(copies), KL_WEIGHT, training=True).total.mean().backward()
        runs.append({name: p.grad.flatten() for name, p in model.named_parameters()})
    return {name: torch.stack([run[name] for run in runs]) for name in runs[0]}


def compare(sampled: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """Compare gradients along two directions per parameter; return the median error relative to the exact norm."""
    errors = []
    for name, gradient in exact.items():
        norm = gradient.norm()
        assert norm > 1e-6, name  # each parameter has an effect
        for place, direction in enumerate(directions(gradient)):
            values = sampled[name] @ direction
            error = values.std() / math.sqrt(len(values))
            difference = values.mean() - gradient @ direction
            assert difference.abs() < LIMIT * error + 1e-3 * norm, (name, place, (difference / error).item())
            if place == 0:
                errors.append(error / norm)
    return float(torch.stack(errors).median())


@strengths
@pytest.mark.parametrize("estimators", ESTIMATORS)
@pytest.mark.parametrize("graph", GRAPHS)
def test_gradient_is_that_of_all_points(graph, estimators, fraction):
    chosen, objective = ESTIMATORS[estimators]
    model = build(GRAPHS[graph], chosen, objective)
    assert set(model.networks.decoded) == {node.name for node in GRAPHS[graph] if node.decoded}
    exact = exact_gradients(model, list_points(model, GRAPHS[graph], images(1)).loss(KL_WEIGHT).mean())
    error = compare(sampled_gradients(model, int(COPIES * fraction)), exact)
    assert error < 0.06 / math.sqrt(fraction)


@pytest.mark.parametrize("graph", GRAPHS)
def test_each_divergence_is_that_of_all_points(graph):
    """|z| < 4.5 for four terms of each case."""
    model = build(GRAPHS[graph], ESTIMATORS["auto"][0])
    with torch.no_grad():
        exact = list_points(model, GRAPHS[graph], images(1)).terms()
        found = model.loss(images(4000)).terms
    assert set(found) == set(exact)
    for name, value in found.items():
        for image, copies in enumerate(value.chunk(2)):
            error = copies.std() / math.sqrt(len(copies))
            assert (copies.mean() - exact[name][image]).abs() < 4.5 * error + 1e-3, name


@strengths
@pytest.mark.parametrize("graph", PAIRS)
def test_gradient_of_the_importance_weighted_bound(graph, fraction):
    """A pathwise node with children has the plain gradient, one without has the doubly reparameterized one."""
    chosen = {True: Pathwise(), False: ScoreFunction(baseline=LeaveOneOut())}
    model = build(PAIRS[graph], chosen, IWAE(num_samples=2))
    model.objective.beta = 1.0
    exact = exact_gradients(model, list_points(model, PAIRS[graph], images(1)).negative_bound_of_two().mean())
    runs = []
    for _ in range(REPLICATES):
        model.zero_grad()
        model.loss(images(int(COPIES * fraction)), training=True).total.mean().backward()
        runs.append({name: p.grad.flatten() for name, p in model.named_parameters()})
    compare({name: torch.stack([run[name] for run in runs]) for name in runs[0]}, exact)
