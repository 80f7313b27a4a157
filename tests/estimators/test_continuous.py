"""Continuous distributions x estimators: the gradient of every parameter, against quadrature of scipy's densities.

|z| < 4 at a standard error of 1 % of the gradient's norm for about 40 components with two estimators: with random
seeds, a correct library would fail with a probability of at most 2 * 40 * 6.3e-5 = 0.005.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from distributions.families import BY_NAME, LINE, Family, bend, derivatives, integral, truncated, truncnorm
from scipy import stats
from strength import strengths
from torch import Tensor
from torch.distributions import (
    AffineTransform,
    Beta,
    Categorical,
    Dirichlet,
    Distribution,
    Gamma,
    Independent,
    Laplace,
    LogNormal,
    Normal,
    SigmoidTransform,
    StudentT,
    TransformedDistribution,
    Uniform,
)

from vaekit import expectation
from vaekit.distributions import LogDirichlet, LogGamma, MixtureSameFamily, VonMises
from vaekit.estimators import Estimator, LeaveOneOut, Pathwise, ScoreFunction
from vaekit.exceptions import EstimatorError

F64 = torch.float64
CHUNK, LIMIT = 40_000, 60


def logistic(loc: Tensor, scale: Tensor) -> Distribution:
    base = Uniform(torch.zeros_like(loc), torch.ones_like(loc))
    return TransformedDistribution(base, [SigmoidTransform().inv, AffineTransform(loc, scale)])


def gamma(a, b):
    return stats.gamma(a, scale=1 / b)


def log_normal(m, s):
    return stats.lognorm(s, scale=np.exp(m))


FAMILIES = [
    Family("normal", Normal, stats.norm, (0.6, 0.8), (-8, -2, 2, 9), LINE),
    Family("laplace", Laplace, stats.laplace, (0.3, 0.8), (-30, -8, -2, 3, 9, 30), LINE, corners=(0,)),
    Family("student_t", StudentT, stats.t, (6.0, 0.5, 0.7), (-4e3, -200, -30, -6, 0, 1, 6, 30, 200, 4e3), LINE),
    Family("gamma", Gamma, gamma, (2.5, 1.4), (0, 0.01, 0.1, 1, 4, 12, 40), LINE),
    Family("beta", Beta, stats.beta, (2.6, 2.3), (0, 0.003, 0.05, 0.5, 0.95, 0.997, 1), LINE),
    Family("log_normal", LogNormal, log_normal, (-0.2, 0.5), (0, 0.1, 0.5, 1, 3, 10, 60), LINE),
    Family("logistic", logistic, stats.logistic, (-0.4, 0.7), (-35, -10, -3, 0, 3, 10, 35), LINE),
    Family("truncated_two", truncated(-0.5, 1.5), truncnorm(-0.5, 1.5), (1.2, 0.6), (-0.5, 1.5), LINE),
    *(BY_NAME[n] for n in ("von_mises", "log_gamma_0.1", "log_gamma_10", "truncated_half", "mixture_normal")),
]
ESTIMATORS = {"pathwise": Pathwise(), "score": ScoreFunction(num_samples=4, baseline=LeaveOneOut())}


def agree(exact: Tensor, sample, fraction: float = 1.0) -> None:
    """Sample replicates of the gradient, ``sample(count) -> [count, *]``, until precise; assert |z| < 4.

    A pilot, whose replicates are discarded, determines the count.
    """
    chunk, precision = int(CHUNK * fraction), 0.01 / fraction**0.5
    pilot = sample(chunk)
    needed = 1.2 * (pilot.var(0) / (precision * exact.norm()) ** 2).max().item()
    actual = torch.cat([sample(chunk) for _ in range(min(LIMIT, max(1, math.ceil(needed / chunk))))])
    error = actual.std(0) / len(actual) ** 0.5
    assert (error <= precision * exact.norm()).all(), error / exact.norm()
    assert ((actual.mean(0) - exact).abs() / (error + 1e-7 * exact.norm())).max() < 4, (actual.mean(0) - exact) / error


@strengths
@pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS)
@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_gradient_agrees_with_quadrature(family: Family, estimator: Estimator, fraction: float) -> None:
    cost = family.costs[0]

    def sample(count: int) -> Tensor:
        leaves = [torch.full((count,), p, dtype=F64, requires_grad=True) for p in family.parameters]
        total = expectation(cost, family.make(*leaves), estimator)
        return torch.stack(torch.autograd.grad(total.sum(), leaves), -1)

    agree(derivatives(lambda p: integral(family, cost, p), family.parameters)[0], sample, fraction)


@strengths
@pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS)
@pytest.mark.parametrize("in_log_space", [False, True])
def test_dirichlet_agrees_with_the_closed_form(estimator: Estimator, in_log_space: bool, fraction: float) -> None:
    at = torch.tensor([0.8, 2.0, 1.5], dtype=F64)

    def exact(alpha: Tensor) -> Tensor:  # E[x_1^2 + 2 x_1 x_2 - x_3]
        total = alpha.sum()
        return (alpha[0] * (alpha[0] + 1) + 2 * alpha[0] * alpha[1]) / (total * (total + 1)) - alpha[2] / total

    def cost(z: Tensor) -> Tensor:
        x = z.exp() if in_log_space else z
        return x[..., 0] ** 2 + 2 * x[..., 0] * x[..., 1] - x[..., 2]

    def sample(count: int) -> Tensor:
        alpha = at.expand(count, 3).clone().requires_grad_()
        q = LogDirichlet(alpha) if in_log_space else Dirichlet(alpha)
        return torch.autograd.grad(expectation(cost, q, estimator).sum(), alpha)[0]

    agree(torch.func.grad(exact)(at), sample, fraction)


@pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS)
def test_a_mixture_of_vectors_below_a_normal_node(estimator: Estimator) -> None:
    """The parent shifts the components: E[(z_1 - 2 z_2)^2] in closed form."""
    at = torch.tensor([0.3, 0.2, -0.5], dtype=F64)  # logit, parent's location, loc of component 1
    scale = torch.tensor([[0.5, 0.8], [0.7, 0.4]], dtype=F64)

    def components(first: Tensor, parent: Tensor) -> Tensor:  # -> [*, K, D]
        one = torch.ones_like(parent)
        return torch.stack([torch.stack([first + parent, -parent], -1), torch.stack([parent, one], -1)], -2)

    def exact(p: Tensor) -> Tensor:
        weight = torch.stack([p[0].sigmoid(), 1 - p[0].sigmoid()])
        noise = (scale**2 * torch.tensor([1.0, 4.0], dtype=F64)).sum(-1)
        x, w = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(5))
        loc = components(p[2], p[1] + x)  # [points, K, D]
        return ((w / w.sum())[:, None] * weight * ((loc[..., 0] - 2 * loc[..., 1]) ** 2 + noise)).sum()

    def sample(count: int) -> Tensor:
        p = at.expand(count, 3).clone().requires_grad_()

        def child(parent: Tensor) -> Distribution:
            mixture = Categorical(logits=torch.stack([p[:, 0], 0 * p[:, 0]], -1).expand(*parent.shape, 2))
            loc = components(p[:, 2].expand(parent.shape), parent)
            return MixtureSameFamily(mixture, Independent(Normal(loc, scale.expand(loc.shape)), 1))

        q = {"parent": Normal(p[:, 1], torch.ones(count, dtype=F64)), "child": child}
        total = expectation(
            lambda child: (child[..., 0] - 2 * child[..., 1]) ** 2,
            q,
            {"parent": Pathwise(), "child": estimator} if isinstance(estimator, Pathwise) else estimator,
        )
        return torch.autograd.grad(total.sum(), p)[0]

    agree(torch.func.grad(exact)(at), sample)


POSTERIORS = [
    ("normal", Normal, (0.4, 0.8)),
    ("von_mises", VonMises, (0.5, 3.0)),
    ("gamma", Gamma, (2.0, 1.5)),
    ("log_gamma", LogGamma, (0.3, 1.5)),
]


@pytest.mark.parametrize(("make", "at"), [p[1:] for p in POSTERIORS], ids=[p[0] for p in POSTERIORS])
def test_sticking_the_landing_has_no_variance_at_the_posterior(make, at) -> None:
    """The joint is 3 q(z): log q(z) - log p(x, z) is constant, and the gradient 0."""
    posterior = make(*(torch.tensor(p, dtype=F64) for p in at))

    def gradients(stick_the_landing: bool) -> tuple[Tensor, Tensor]:
        leaves = [torch.full((1000,), p, dtype=F64, requires_grad=True) for p in at]
        q = make(*leaves)
        total = expectation(
            lambda z: q.log_prob(z) - posterior.log_prob(z) - math.log(3),
            q,
            Pathwise(num_samples=2, stick_the_landing=stick_the_landing),
        )
        torch.testing.assert_close(
            total.detach(), torch.full_like(total, -math.log(3))
        )  # the value of the correction is 0
        return torch.stack(torch.autograd.grad(total.sum(), leaves), -1)

    assert gradients(True).abs().max() < 1e-9
    assert gradients(False).std(0).min() > 0.01


@pytest.mark.parametrize("stick_the_landing", [False, True])
def test_sticking_the_landing_is_unbiased_away_from_the_posterior(stick_the_landing: bool) -> None:
    at = torch.tensor([0.3, 0.7], dtype=F64)

    def negative_elbo(p: Tensor) -> Tensor:  # compared with the joint N(z; -0.5, 1.2) and a likelihood sin(z)
        divergence = torch.distributions.kl_divergence(Normal(p[0], p[1]), Normal(-0.5, 1.2))
        return divergence - torch.exp(-(p[1] ** 2) / 2) * p[0].sin()

    def sample(count: int) -> Tensor:
        p = at.expand(count, 2).clone().requires_grad_()
        q, prior = Normal(p[:, 0], p[:, 1]), Normal(torch.tensor(-0.5, dtype=F64), torch.tensor(1.2, dtype=F64))
        total = expectation(
            {"kl": lambda z: q.log_prob(z) - prior.log_prob(z), "likelihood": lambda z: -z.sin()},
            q,
            Pathwise(stick_the_landing=stick_the_landing),
        )
        return torch.autograd.grad(total.sum(), p)[0]

    agree(torch.func.grad(negative_elbo)(at), sample)


def test_sticking_the_landing_adds_noise_but_no_bias_to_another_cost() -> None:
    def sample(stick_the_landing: bool, count: int) -> Tensor:
        p = torch.tensor([0.3, 0.7], dtype=F64).expand(count, 2).clone().requires_grad_()
        total = expectation(bend, Normal(p[:, 0], p[:, 1]), Pathwise(stick_the_landing=stick_the_landing))
        return torch.autograd.grad(total.sum(), p)[0]

    family = Family("normal", Normal, stats.norm, (0.3, 0.7), (-8, -2, 2, 9), LINE)
    agree(derivatives(lambda p: integral(family, bend, p), family.parameters)[0], lambda n: sample(True, n))
    assert (sample(True, 10_000).var(0) > sample(False, 10_000).var(0)).all()


def test_sticking_the_landing_without_a_density_is_rejected() -> None:
    class Silent(Distribution):
        has_rsample = True

        def rsample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
            return torch.randn(sample_shape).requires_grad_()

    with pytest.raises(EstimatorError, match="Silent"):
        expectation(lambda z: z**2, Silent(validate_args=False), Pathwise(stick_the_landing=True))
