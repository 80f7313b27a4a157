"""Nodes whose only gradient path passes through the correction of a child."""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent, Normal, OneHotCategorical

from vaekit.estimators import REBAR, RELAX, Estimator, LeaveOneOut, MuProp, Pathwise
from vaekit.exceptions import EstimatorError
from vaekit.graph.expectation import evaluate

from .conformance import Control

REPLICATES, THRESHOLD = 40_000, 4.0
MAKERS: dict[str, Callable[[], Estimator]] = {
    "muprop": lambda: MuProp(2),
    "muprop_loo": lambda: MuProp(baseline=LeaveOneOut()),
    "rebar": REBAR,
    "relax": lambda: RELAX(Control()),
    "relax_black_box": lambda: RELAX(Control(), temperature=None),
}
by_estimator = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
WEIGHT = torch.tensor([[2.2, -1.9], [-1.4, 2.6]], dtype=torch.float64)


def agrees(leaf: Tensor, total: Tensor, exact: Tensor) -> None:
    """Assert that the mean gradient over the batch is exact, and not 0."""
    (actual,) = torch.autograd.grad(total.sum(), leaf)
    error = actual.std(0) / math.sqrt(REPLICATES)
    assert ((actual.mean(0) - exact).abs() / error).max() < THRESHOLD
    assert (exact.abs() / error).max() > 2 * THRESHOLD, "too few replicates to distinguish it from 0"


@by_estimator
@pytest.mark.parametrize("estimator", [Pathwise(), "auto"], ids=str)
def test_pathwise_node_above(make: Callable[[], Estimator], estimator: Estimator | str) -> None:
    torch.manual_seed(0)
    mean = torch.tensor(0.5, dtype=torch.float64)
    at, weight = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(40))
    leaf = mean.clone().requires_grad_()
    value = (weight / weight.sum() * (0.09 + 0.4 * (leaf + at).sigmoid())).sum()
    (exact,) = torch.autograd.grad(value, leaf)
    many = mean.expand(REPLICATES).clone().requires_grad_()
    q = {"z": Normal(many, 1.0), "b": lambda z: Bernoulli(logits=z)}
    result = evaluate(lambda b: (b - 0.3) ** 2, q, {"z": estimator, "b": make()})
    assert result.samples["z"].value.requires_grad, "pathwise"
    agrees(many, result.total, exact)


def layer(kind: str, logits: Tensor) -> Distribution:
    return Independent(Bernoulli(logits=logits), 1) if kind == "binary" else OneHotCategorical(logits=logits)


def states(kind: str) -> Tensor:
    binary = torch.tensor(list(itertools.product((0.0, 1.0), repeat=2)), dtype=torch.float64)
    return binary if kind == "binary" else torch.eye(2, dtype=torch.float64)


@by_estimator
@pytest.mark.parametrize("kind", ["binary", "one_hot"])
def test_layers_with_a_cost_of_the_last(make: Callable[[], Estimator], kind: str, request) -> None:
    torch.manual_seed(zlib.crc32(request.node.name.encode()))
    start = torch.tensor([0.4, -0.8], dtype=torch.float64)

    def cost(h: Tensor) -> Tensor:
        return (h @ torch.tensor([1.0, -0.6], dtype=h.dtype) - 0.3) ** 2

    leaf = start.clone().requires_grad_()
    first = layer(kind, leaf).log_prob(states(kind)).exp()
    second = layer(kind, (states(kind) @ WEIGHT)[:, None]).log_prob(states(kind)).exp()
    third = layer(kind, (states(kind) @ WEIGHT.T)[:, None]).log_prob(states(kind)).exp()
    (exact,) = torch.autograd.grad(first @ second @ third @ cost(states(kind)), leaf)
    many = start.expand(REPLICATES, 2).clone().requires_grad_()
    q = {
        "h1": layer(kind, many),
        "h2": lambda h1: layer(kind, h1 @ WEIGHT),
        "h3": lambda h2: layer(kind, h2 @ WEIGHT.T),
    }
    agrees(many, evaluate({"last": lambda h3: cost(h3)}, q, {name: make() for name in q}).total, exact)


@by_estimator
def test_a_child_without_a_path_to_its_parent_is_still_rejected(make: Callable[[], Estimator]) -> None:
    mean = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    q = {"z": Normal(mean, 1.0), "b": lambda z: Bernoulli(logits=z.sign())}
    with pytest.raises(EstimatorError, match=r"'z'.*no gradient path"):
        evaluate(lambda b: b, q, {"z": Pathwise(), "b": make()})
