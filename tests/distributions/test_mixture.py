"""Mixtures: vectors of variables, distant components, components without a gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from strength import strengths
from torch.distributions import Categorical, Gamma, Independent, Laplace, Normal, StudentT, Uniform

from vaekit.distributions import LogGamma, MixtureSameFamily, TruncatedNormal, VonMises

F64 = torch.float64
LOGITS = torch.tensor([0.3, -0.4], dtype=F64)
LOC = torch.tensor([[-0.7, 0.4, 0.2], [0.8, -0.5, 1.0]], dtype=F64)  # [K, D]
SCALE = torch.tensor([[0.6, 0.9, 0.5], [0.7, 0.5, 0.8]], dtype=F64)


def cost(z):
    return torch.sin(z[..., 0] + 0.5 * z[..., 1]) * z[..., 2] + 0.4 * z[..., 0] * z[..., 1]


def make(flat):
    """Return the mixture of vectors whose parameters are ``flat``, ``[*batch, 14]``."""
    logits, loc, scale = flat[..., :2], flat[..., 2:8].unflatten(-1, (2, 3)), flat[..., 8:].unflatten(-1, (2, 3))
    return MixtureSameFamily(Categorical(logits=logits), Independent(Normal(loc, scale), 1))


def exact(flat):
    x, w = np.polynomial.hermite_e.hermegauss(20)
    x, w = torch.from_numpy(x), torch.from_numpy(w / w.sum())
    grid = torch.cartesian_prod(x, x, x)
    weight = torch.cartesian_prod(w, w, w).prod(-1)
    loc, scale = flat[2:8].unflatten(-1, (2, 1, 3)), flat[8:].unflatten(-1, (2, 1, 3))
    return (flat[:2].softmax(-1) * (weight * cost(loc + scale * grid)).sum(-1)).sum()


@strengths
def test_vectors_have_the_first_and_second_derivatives_of_quadrature(fraction):
    at = torch.cat([LOGITS, LOC.flatten(), SCALE.flatten()])
    gradient, hessian = torch.func.grad(exact)(at), torch.func.hessian(exact)(at)
    first, second = [], []
    for _ in range(8):
        flat = at.expand(int(25_000 * fraction), 14).clone().requires_grad_()
        (g,) = torch.autograd.grad(cost(make(flat).rsample()).sum(), flat, create_graph=True)
        h = [torch.autograd.grad(g[:, k].sum(), flat, retain_graph=True)[0] for k in (0, 2, 4, 13)]
        first.append(g.detach())
        second.append(torch.stack(h, 1))
    for actual, expected in ((first, gradient), (second, hessian[[0, 2, 4, 13]])):
        actual = torch.cat(actual)
        error = actual.std(0) / len(actual) ** 0.5
        assert (error <= 0.01 / fraction**0.5 * expected.norm()).all(), error / expected.norm()
        assert ((actual.mean(0) - expected).abs() / error).max() < 4


def test_values_are_those_of_sample_and_shapes_expand():
    flat = torch.cat([LOGITS, LOC.flatten(), SCALE.flatten()]).expand(5, 14).clone().requires_grad_()
    q = make(flat).expand(torch.Size([4, 5]))
    assert isinstance(q, MixtureSameFamily)
    assert (q.batch_shape, q.event_shape) == ((4, 5), (3,))
    torch.manual_seed(1)
    drawn = q.rsample(torch.Size([2]))
    torch.manual_seed(1)
    torch.testing.assert_close(drawn.detach(), q.sample(torch.Size([2])), rtol=0, atol=0)
    assert drawn.shape == (2, 4, 5, 3)
    assert q.log_prob(drawn).shape == (2, 4, 5)


def test_a_scalar_mixture_weight_is_shared_by_the_batch():
    logits = LOGITS.clone().requires_grad_()
    q = MixtureSameFamily(Categorical(logits=logits), Normal(LOC.T, SCALE.T))
    drawn = q.rsample(torch.Size([7]))
    assert drawn.shape == (7, 3)
    assert torch.autograd.grad(drawn.sum(), logits)[0].isfinite().all()


@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize("component", [Normal, Laplace])
def test_float32_extremes_are_finite(component, vector):
    logits = torch.tensor([30.0, -30.0, 0.0, -float("inf")]).repeat(5000, 1).requires_grad_()
    loc = torch.tensor([[-1e4, 0.0], [1e4, 1.0], [3e3, 2.0], [0.0, 0.0]]).repeat(5000, 1, 1).requires_grad_()
    scale = torch.tensor([[1e-2, 1.0], [1e3, 0.1], [1.0, 5.0], [1.0, 1.0]]).repeat(5000, 1, 1).requires_grad_()
    if vector:
        q = MixtureSameFamily(Categorical(logits=logits), Independent(component(loc, scale), 1))
    else:
        q = MixtureSameFamily(Categorical(logits=logits), component(loc[..., 0], scale[..., 0]))
    drawn = q.rsample()
    assert drawn.isfinite().all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(drawn.sum(), (logits, loc, scale)))


def test_components_of_vaekit():
    z = torch.zeros(4, 3, dtype=F64, requires_grad=True)
    for component in (VonMises(z, z + 2), TruncatedNormal(z + torch.arange(3), z + 1, -1.0, 2.0)):
        q = MixtureSameFamily(Categorical(logits=z), component)
        assert q.has_rsample
        (first,) = torch.autograd.grad(q.rsample().cos().sum(), z, create_graph=True)
        assert torch.autograd.grad(first.square().sum(), z)[0].isfinite().all()


def test_components_with_different_intervals_are_rejected():
    ends = torch.tensor([0.0, 1.0])
    for component in (Uniform(ends, ends + 2), TruncatedNormal(ends, ends + 1, ends, 3.0)):
        for validate in (True, False):
            q = MixtureSameFamily(Categorical(logits=ends), component, validate_args=validate)
            with pytest.raises(NotImplementedError, match="one support"):
                q.rsample()


def test_distributions_without_a_gradient_are_rejected():
    mixture = Categorical(logits=torch.zeros(2))
    q = MixtureSameFamily(mixture, StudentT(torch.full((2,), 3.0)))
    assert not q.has_rsample
    with pytest.raises(NotImplementedError, match="cdf"):
        q.rsample()
    for family in (
        Gamma,
        LogGamma,
    ):  # their CDF does not have a derivative by the concentration: an error instead of a wrong number
        alpha = torch.ones(2, requires_grad=True)
        drawn = MixtureSameFamily(mixture, family(alpha, torch.ones(2))).rsample
        with pytest.raises((RuntimeError, NotImplementedError), match="not implemented"):
            drawn().backward()
