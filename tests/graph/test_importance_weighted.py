"""The importance-weighted bound and its gradients, against sums and quadrature over all K joint samples.

The batch holds the replicates. Each gradient component is tested with |z| < 4 (false alarms: 6e-5 per component, 0.6 %
for the module), its standard error at most 1 % of the exact gradient's norm.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from estimators.zscore import THRESHOLD
from torch import Tensor
from torch.distributions import Bernoulli, Independent, Normal, OneHotCategorical

from vaekit import importance_weighted_bound
from vaekit.estimators import Enumerate, GumbelSoftmax, LeaveOneOut, MovingAverage, Pathwise, ScoreFunction
from vaekit.exceptions import EstimatorError
from vaekit.graph.dependencies import parse_graph
from vaekit.graph.importance_weighted import combine, prepare
from vaekit.graph.sampling import sample_graph

K, BATCH, CHUNKS, POINTS = 2, 200_000, 5, 40
CODE = torch.tensor([-0.7, 0.4, 1.1], dtype=torch.float64)
PARAMETERS = {
    "y": torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64),
    "loc": torch.tensor(0.4, dtype=torch.float64),
    "link": torch.tensor(0.6, dtype=torch.float64),
    "log_scale": torch.tensor(-0.3, dtype=torch.float64),
    "model": torch.tensor(0.8, dtype=torch.float64),
}
Leaves = dict[str, Tensor]


def conditional(p: Leaves, y: Tensor) -> Normal:
    return Normal(p["loc"] + p["link"] * (y * CODE).sum(-1), p["log_scale"].exp(), validate_args=False)


def log_joint(p: Leaves, y: Tensor, z: Tensor) -> Tensor:
    code = (y * CODE).sum(-1)
    return -0.5 * (z - 0.5 * p["model"] * code).square() - 0.5 * (p["model"] * z + code - 1).square() + 0.2 * code * z


def categorical(p: Leaves) -> OneHotCategorical:
    return OneHotCategorical(logits=p["y"], validate_args=False)


def below(p: Leaves) -> dict:
    return {"y": categorical(p), "z": lambda y: conditional(p, y)}


def above(p: Leaves) -> dict:
    """The Gaussian is the parent: its value shapes the distribution of the code."""
    first = Normal(p["loc"], p["log_scale"].exp(), validate_args=False)
    return {"z": first, "y": lambda z: OneHotCategorical(logits=p["y"] + p["link"][..., None] * z[..., None] * CODE)}


def exact(graph, beta: float = 1.0) -> tuple[float, Leaves]:
    """Return the bound for K joint samples and its gradient: all pairs of (code, quadrature point)."""
    p = {name: value.clone().requires_grad_() for name, value in PARAMETERS.items()}
    x, w = np.polynomial.hermite_e.hermegauss(POINTS)
    x, w = torch.from_numpy(x), torch.from_numpy(w / w.sum())
    states, log_weight, share = torch.eye(3, dtype=torch.float64), [], []
    for state in states:
        if graph is below:
            z = conditional(p, state)
            value, mass = z.loc + z.scale * x, categorical(p).log_prob(state).exp() * w
            log_q = categorical(p).log_prob(state) + z.log_prob(value)
        else:
            z = above(p)["z"]
            value = z.loc + z.scale * x
            code = above(p)["y"](value)
            mass, log_q = code.log_prob(state).exp() * w, z.log_prob(value) + code.log_prob(state)
        log_weight.append(log_joint(p, state, value) - beta * log_q)
        share.append(mass)
    log_weight, share = torch.cat(log_weight), torch.cat(share)
    pairs = torch.tensor(list(itertools.product(range(len(share)), repeat=K)))
    bound = (share[pairs].prod(1) * (log_weight[pairs].logsumexp(1) - math.log(K))).sum()
    return bound.item(), dict(zip(p, torch.autograd.grad(bound, list(p.values())), strict=True))


def estimate(graph, estimators, beta: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean, its standard error and the variance of value and gradient, ``[1 + components]``."""
    chunks = []
    for _ in range(CHUNKS):
        p = {n: v.expand(BATCH, *v.shape).clone().requires_grad_() for n, v in PARAMETERS.items()}
        if beta == 1:
            bound = importance_weighted_bound(lambda y, z, p=p: log_joint(p, y, z), graph(p), estimators, num_samples=K)
        else:
            nodes, _ = parse_graph(lambda y, z: y, graph(p))
            graph_sample = prepare(sample_graph(nodes, estimators, num_samples=K))
            bound = combine(graph_sample, log_joint(p, **graph_sample.values), beta)
        gradients = torch.autograd.grad(bound.sum(), list(p.values()))
        chunks.append(torch.cat([bound.detach()[:, None], *(g.reshape(BATCH, -1) for g in gradients)], 1))
    values = torch.cat(chunks)
    return values.mean(0), values.std(0) / len(values) ** 0.5, values.var(0)


VIMCO = {"y": ScoreFunction(baseline=LeaveOneOut()), "z": Pathwise()}


@pytest.mark.parametrize("graph", [below, above])
@pytest.mark.parametrize(
    "estimators",
    [VIMCO, {"y": ScoreFunction(), "z": Pathwise()}, dict.fromkeys("yz", ScoreFunction(baseline=LeaveOneOut()))],
    ids=["vimco-dreg", "score-dreg", "vimco-vimco"],
)
def test_gradient_is_exact_on_average(graph, estimators) -> None:
    value, gradient = exact(graph)
    expected = torch.cat([torch.tensor([value]).double(), *(g.reshape(-1) for g in gradient.values())])
    mean, error, _ = estimate(graph, estimators)
    assert (error[1:] < 0.01 * expected[1:].norm()).all()
    assert (((mean - expected) / error).abs() < THRESHOLD).all()


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_gradient_is_exact_on_average_during_the_warm_up(beta) -> None:
    value, gradient = exact(below, beta)
    expected = torch.cat([torch.tensor([value]).double(), *(g.reshape(-1) for g in gradient.values())])
    mean, error, _ = estimate(below, VIMCO, beta)
    assert (error[1:] < 0.01 * expected[1:].norm()).all()
    assert (((mean - expected) / error).abs() < THRESHOLD).all()


def test_sticking_the_landing_is_biased() -> None:
    _, gradient = exact(below)
    expected = torch.cat([g.reshape(-1) for g in gradient.values()])
    mean, error, _ = estimate(below, {**VIMCO, "z": Pathwise(stick_the_landing=True)})
    assert ((mean[1:] - expected) / error[1:]).abs().max() > 10


def test_leave_one_out_lowers_the_variance() -> None:
    plain = estimate(below, {"y": ScoreFunction(), "z": Pathwise()})[2]
    assert (estimate(below, VIMCO)[2][1:4] < 0.5 * plain[1:4]).all()


def test_joint_samples_of_probability_zero() -> None:
    """Against enumeration: one of three states has no density, and most sets of four joint samples contain it."""
    logits = torch.tensor([0.2, -0.3, 0.4], dtype=torch.float64)
    log_joint = torch.tensor([-1.0, 0.5, -torch.inf], dtype=torch.float64)
    graph = logits.clone().requires_grad_()
    log_q = graph.log_softmax(0)
    exact = torch.zeros((), dtype=torch.float64)
    for states in itertools.product(range(3), repeat=4):
        if states != (2,) * 4:
            chosen = log_q[list(states)]
            bound = (log_joint[list(states)] - chosen).logsumexp(0) - math.log(4)
            exact = exact + chosen.sum().exp() * bound
    (expected,) = torch.autograd.grad(exact, graph)
    rows = logits.expand(200_000, 3).clone().requires_grad_()
    bound = importance_weighted_bound(
        lambda y: torch.where(y == 1, log_joint, 0.0).sum(-1),
        OneHotCategorical(logits=rows),
        ScoreFunction(baseline=LeaveOneOut()),
        num_samples=4,
    )
    possible = bound.isfinite()
    assert (~possible).double().mean() < 0.05
    bound[possible].sum().backward()
    gradients = torch.where(possible[:, None], rows.grad, 0.0)
    error = gradients.std(0) / len(gradients) ** 0.5
    assert gradients.isfinite().all()
    assert ((gradients.mean(0) - expected) / error).abs().max() < 4.5  # one false alarm in 50,000


def test_variance_is_zero_if_the_posterior_is_exact() -> None:
    loc = torch.zeros(50, requires_grad=True)
    bound = importance_weighted_bound(lambda z: Normal(0.0, 1.0).log_prob(z) + 3, Normal(loc, 1.0), num_samples=4)
    bound.sum().backward()
    torch.testing.assert_close(bound, torch.full((50,), 3.0))
    torch.testing.assert_close(loc.grad, torch.zeros(50), atol=1e-6, rtol=0)


def test_bound_rises_with_the_number_of_samples_towards_log_p() -> None:
    posterior = Normal(torch.zeros(100_000), 1.2)
    evidence = Normal(0.0, 2**0.5).log_prob(torch.tensor(1.0)).item()
    means = [
        importance_weighted_bound(
            lambda z: Normal(0.0, 1.0).log_prob(z) + Normal(z, 1.0).log_prob(torch.tensor(1.0)),
            posterior,
            num_samples=count,
        )
        .mean()
        .item()
        for count in (2, 8, 64)
    ]
    assert means == sorted(means)
    assert means[-1] == pytest.approx(evidence, abs=0.02)


X, SHARES = torch.tensor([-0.8, 0.3, 1.5]).double(), torch.tensor([1.0, 0.3, 0.6]).double()


def joint_of_three(p: Tensor, z: Tensor) -> Tensor:
    """Return log p(x, z) of three observations."""
    return Normal(0.0, 1.0).log_prob(z) + Normal(z, 0.7).log_prob(X + p)


def exact_of_three(start: Tensor) -> Tensor:
    """Return value and gradient of the three bounds with weights: all pairs of quadrature points."""
    x, w = np.polynomial.hermite_e.hermegauss(60)
    x, w = torch.from_numpy(x)[:, None], torch.from_numpy(w / w.sum())
    p = start.clone().requires_grad_()
    q = Normal(p[0], p[1].exp())
    z = q.loc + q.scale * x
    log_weight = joint_of_three(p[2], z) - q.log_prob(z)
    pairs = torch.logaddexp(log_weight[:, None], log_weight[None]) - math.log(2)
    bound = (w[:, None, None] * w[None, :, None] * pairs).sum((0, 1)) @ SHARES
    return torch.cat([bound.detach()[None], torch.autograd.grad(bound, p)[0]])


@pytest.mark.parametrize(
    "estimator", [Pathwise(), ScoreFunction(), ScoreFunction(baseline=LeaveOneOut())], ids=["dreg", "score", "vimco"]
)
def test_node_that_a_batch_shares(estimator) -> None:
    """A node of batch ``[..., 1]`` next to one of ``[..., 3]``: each entry has separate weights."""
    start = torch.tensor([0.4, -0.2, 0.1]).double()
    p = start.expand(BATCH, 3).clone().requires_grad_()
    q = {"z": Normal(p[:, :1], p[:, 1:2].exp()), "w": Normal(torch.zeros(BATCH, 3).double(), 1.0)}
    bound = importance_weighted_bound(
        lambda z, w: joint_of_three(p[:, 2:], z) + Normal(0.0, 1.0).log_prob(w),
        q,
        {"z": estimator, "w": Pathwise()},
        num_samples=2,
    )
    total = bound @ SHARES
    gradients = torch.cat([total.detach()[:, None], torch.autograd.grad(total.sum(), p)[0]], 1)
    assert (((gradients.mean(0) - exact_of_three(start)) / (gradients.std(0) / BATCH**0.5)).abs() < THRESHOLD).all()


FLAT = {"round": torch.round, "detach": torch.Tensor.detach, "sign": torch.sign}


@pytest.mark.parametrize("flat", FLAT.values(), ids=FLAT)
def test_density_without_a_gradient_path_is_rejected(flat) -> None:
    posterior = Normal(torch.zeros(4, requires_grad=True), 1.0)
    with pytest.raises(EstimatorError, match=r"Pathwise.*no gradient path.*Use ScoreFunction.*VIMCO"):
        importance_weighted_bound(lambda z: Normal(0.0, 1.0).log_prob(flat(z)), posterior, Pathwise(), num_samples=3)


def test_auto_uses_the_score_function_without_a_path() -> None:
    """E[L_2] for log p(x, z) = -round(z)^2 / 2, by sums over a fine grid and finite differences."""

    def value(loc: float) -> float:
        grid = torch.linspace(-9, 9, 3601).double() + 1e-3
        q = Normal(torch.tensor(loc).double(), 1.0)
        log_weight = -0.5 * grid.round().square() - q.log_prob(grid)
        mass = q.log_prob(grid).softmax(0)
        pairs = torch.logaddexp(log_weight[:, None], log_weight[None]) - math.log(2)
        return float(mass @ pairs @ mass)

    expected = (value(0.45) - value(0.35)) / 0.1
    loc = torch.full((BATCH,), 0.4, dtype=torch.float64, requires_grad=True)
    bound = importance_weighted_bound(lambda z: -0.5 * z.round().square(), Normal(loc, 1.0), num_samples=2)
    gradients = torch.autograd.grad(bound.sum(), loc)[0]
    error = gradients.std() / BATCH**0.5
    assert abs(bound.mean().item() - value(0.4)) < 4 * bound.std().item() / BATCH**0.5 + 1e-3
    assert abs(gradients.mean() - expected) < 4 * error + 1e-3


def test_density_of_a_wrong_shape_is_rejected() -> None:
    posterior = Independent(Normal(torch.zeros(4, 4), 1.0), 1)
    with pytest.raises(EstimatorError, match=r"'log_joint' has shape \[3, 4, 4\], expected \[3, 4\]"):
        importance_weighted_bound(lambda z: Normal(0.0, 1.0).log_prob(z), posterior, num_samples=3)


def test_terms_are_rejected() -> None:
    with pytest.raises(EstimatorError, match=r"log_joint is a dictionary of \['prior', 'likelihood'\].*their sum"):
        importance_weighted_bound(
            {"prior": lambda z: -z, "likelihood": lambda z: z}, {"z": Normal(torch.zeros(4), 1.0)}, num_samples=3
        )


@pytest.mark.parametrize(
    "estimator", [Enumerate(), GumbelSoftmax(), ScoreFunction(baseline=MovingAverage())], ids=lambda e: type(e).__name__
)
def test_rejects_estimators_of_linear_expectations(estimator) -> None:
    with pytest.raises(EstimatorError, match=r"importance-weighted|joint"):
        importance_weighted_bound(lambda b: b, Bernoulli(logits=torch.zeros(3)), estimator, num_samples=3)


def test_vimco_needs_two_joint_samples() -> None:
    with pytest.raises(EstimatorError, match="num_samples"):
        importance_weighted_bound(
            lambda b: b, Bernoulli(logits=torch.zeros(3)), ScoreFunction(baseline=LeaveOneOut()), num_samples=1
        )
