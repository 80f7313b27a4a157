"""Tests that test_counts_triton.py runs with TRITON_INTERPRET=1: the kernel against exact values."""

from __future__ import annotations

import itertools

import mpmath
import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from vaekit.batch import Batch
from vaekit.likelihoods import NegativeBinomial, ZeroInflatedNegativeBinomial
from vaekit.likelihoods.counts import counts_triton, elements, sparse

CELLS = 4
COUNTS = (0.0, 1.0, 2.0, 5.0, 7.0, 8.0, 9.0, 12.0, 40.0, 1e3, 1e6)
LOG_THETAS = (-60.0, -39.0, -9.0, -1.0, 0.0, 1.5, 2.1, 5.0, 18.0, 39.0, 60.0)
LOG_MEANS = (-70.0, -10.0, -0.5, 2.0, 7.0, 14.0)


def case(inflated: bool, genes: int, rows: tuple[int, ...] = ()) -> tuple[Batch, list[Tensor]]:
    """Return a batch, and logits, log inverse dispersions (1e-4 to 1e8) and gate logits; the last cell is empty."""
    torch.manual_seed(0)
    x = torch.poisson(torch.rand(CELLS, genes) * 2)
    x[0, 0], x[1, 1], x[2, -1] = 1e6, 3e3, 1e4
    x[2, :5] = torch.tensor([7.0, 8, 9, 10, 300])
    x[-1] = 0
    inputs = [torch.randn(*rows, CELLS, genes) * 3, torch.empty(genes).uniform_(-9, 18)]
    if inflated:
        inputs.append(torch.randn(*rows, CELLS, genes) * 6 - 1)
    return Batch(x, x.sum(1, keepdim=True).clamp_min(1)), inputs


def dense(batch: Batch, inputs: list[Tensor]) -> Tensor:
    gate = inputs[2] if len(inputs) == 3 else None
    return sparse.dense_log_prob(inputs[0], batch.size_factor.double().log(), inputs[1], gate, batch.x.double())


def kernel(batch: Batch, inputs: list[Tensor]) -> Tensor:
    gate = inputs[2] if len(inputs) == 3 else None
    return counts_triton.log_prob(inputs[0], batch, batch.size_factor.log(), inputs[1], gate)


def compare(batch: Batch, inputs: list[Tensor]) -> None:
    """Compare values and gradients with the dense formula in float64."""
    inputs = [t.requires_grad_() for t in inputs]
    value = kernel(batch, inputs)
    weight = torch.randn_like(value)
    found = torch.autograd.grad(value, inputs, weight)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    wanted_value = dense(batch, exact)
    wanted = torch.autograd.grad(wanted_value, exact, weight.double())
    assert value.dtype == torch.float32
    # float32 rounds each log mean by 1e-7 of itself, and a count of 1e6 multiplies that; and the value
    allowed = 1e-3 + 1e-6 * batch.x.sum(1) + 2.5e-7 * wanted_value.abs()
    assert ((value - wanted_value).abs() <= allowed).all()
    for one, other in zip(found, wanted, strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm()  # as on the CPU
    torch.testing.assert_close(found[0].double(), wanted[0], rtol=1e-4, atol=1e-6 * wanted[0].abs().max().item())


@pytest.mark.parametrize(("rows", "genes"), [((), 37), ((2, 3), 7), ((), 1100)])
@pytest.mark.parametrize("inflated", [False, True])
def test_value_and_gradient_are_the_dense_ones(rows, genes, inflated):
    compare(*case(inflated, genes, rows))


@pytest.mark.parametrize("lead", [(CELLS,), (2, CELLS), (2, 1)])
@pytest.mark.parametrize("inflated", [False, True])
def test_dispersions_that_differ_by_cell(lead, inflated):
    batch, inputs = case(inflated, 37, (2,))
    inputs[1] = torch.empty(*lead, 37).uniform_(-9, 18)
    compare(batch, inputs)


def exact(x: float, log_mean: float, log_theta: float) -> tuple[float, float, float]:
    """Return the log-probability and its derivatives in log mean and log theta, in 60 digits."""
    with mpmath.workdps(60):
        mean, theta = mpmath.exp(mpmath.mpf(log_mean)), mpmath.exp(mpmath.mpf(log_theta))
        value = mpmath.loggamma(x + theta) - mpmath.loggamma(theta) - mpmath.loggamma(x + 1)
        value += theta * mpmath.log(theta / (theta + mean)) + x * mpmath.log(mean / (theta + mean))
        slope = (x - mean) * theta / (theta + mean)
        change = mpmath.digamma(x + theta) - mpmath.digamma(theta) + mpmath.log(theta / (theta + mean))
        change = theta * (change + 1 - (x + theta) / (theta + mean))
        return float(value), float(slope), float(change)


@triton.jit
def one_by_one(x, log_mean, log_theta, value, slope, change, size: tl.constexpr):
    lane = tl.arange(0, size)
    each = elements.negative_binomial(tl.load(x + lane), tl.load(log_mean + lane), tl.load(log_theta + lane))
    tl.store(value + lane, each[0])
    tl.store(slope + lane, each[1])
    tl.store(change + lane, each[2])


def test_any_dispersion_mean_and_count():
    grid = torch.tensor(list(itertools.product(COUNTS, LOG_MEANS, LOG_THETAS)))
    padded = torch.zeros(1024, 3)
    padded[: len(grid)] = grid
    found = [torch.empty(1024) for _ in range(3)]
    one_by_one[(1,)](*(part.contiguous() for part in padded.T), *found, size=1024)
    value, slope, change = (part[: len(grid)].double() for part in found)
    assert value.isfinite().all()
    count, log_mean, log_theta = grid.T.double()
    known = (log_mean >= -40) | (log_theta >= -40)  # see the module
    wanted = torch.tensor([exact(*row) for row in grid.tolist()], dtype=torch.float64)[known].T
    size = torch.maximum(log_mean.exp(), count)[known]
    # float32's rounding of a mean is multiplied by the slopes; a mean below e^-60 counts as e^-60
    limit = 2e-6 * wanted[0].abs() + 5e-7 * size + 1e-5
    assert ((value[known] - wanted[0]).abs() <= limit).all()
    assert ((slope[known] - wanted[1]).abs() <= 1e-6 * size + 1e-25).all()
    assert ((change[known] - wanted[2]).abs() <= 2e-6 * wanted[2].abs() + 1e-6 * size + 1e-25).all()


@pytest.mark.parametrize("gate", [-1000.0, -60.0, -8.0, 8.0, 60.0, 1000.0])
def test_any_share_of_additional_zeros(gate):
    batch, inputs = case(True, 37)
    inputs[1] /= 4
    inputs[2].fill_(gate)
    inputs = [t.requires_grad_() for t in inputs]
    value = kernel(batch, inputs)
    doubles = [t.detach().double().requires_grad_() for t in inputs]
    wanted = dense(batch, doubles)
    assert ((value - wanted).abs() <= 1e-3 + 1e-6 * batch.x.sum(1) + 2.5e-7 * wanted.abs()).all()
    found = torch.autograd.grad(value.sum(), inputs)
    for one, other in zip(found, torch.autograd.grad(wanted.sum(), doubles), strict=True):
        assert one.isfinite().all()
        assert (one - other).norm() <= 1e-5 * other.norm() + 1e-30


def test_logits_far_apart():
    batch, inputs = case(True, 37)
    inputs[0][0, 3:9] = torch.tensor([1e4, -1e4, 3e38, -3e38, 80.0, -80.0])
    inputs[0][3, 4], batch.x[3, 4] = -torch.inf, 0
    inputs[0][2, 4], batch.x[2, 4] = -torch.inf, 2
    inputs = [t.requires_grad_() for t in inputs]
    value = kernel(batch, inputs)
    assert value[2] == -torch.inf  # a count of what never happens
    assert not value.isnan().any()
    assert value[[1, 3]].isfinite().all()
    assert all(g.isfinite().all() for g in torch.autograd.grad(value.sum(), inputs))


@pytest.mark.parametrize("broken", [0.5, 9.5, -1.0, torch.nan, torch.inf])
def test_values_that_are_no_counts_give_nan(broken):
    batch, inputs = case(True, 37)
    batch.x[1, 2] = broken
    value = kernel(batch._replace(size_factor=torch.ones(CELLS, 1)), inputs)
    assert value.isnan().tolist() == [i == 1 for i in range(CELLS)]


@pytest.mark.parametrize("inflated", [False, True])
def test_nan_is_not_lost(inflated):
    batch, inputs = case(inflated, 37)
    for number in (0, 2)[: 1 + inflated]:
        broken = [t.clone() for t in inputs]
        broken[number][1, 2] = torch.nan
        assert kernel(batch, broken).isnan().tolist() == [i == 1 for i in range(CELLS)]


@pytest.mark.parametrize("inflated", [False, True])
def test_second_derivatives(inflated):
    batch, inputs = case(inflated, 7)
    batch = Batch(batch.x.clamp_max(9), batch.size_factor.clamp_max(20))
    inputs[1] /= 4
    inputs = [t.requires_grad_() for t in inputs]
    directions = [torch.randn_like(t) for t in inputs]

    def twice(function):
        first = torch.autograd.grad(function(batch, inputs).square().sum(), inputs, create_graph=True)
        product = sum((g * d).sum() for g, d in zip(first, directions, strict=True))
        return torch.autograd.grad(product, inputs)

    for one, other in zip(twice(kernel), twice(dense), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * other.abs().max().item())


@pytest.mark.parametrize("kind", [NegativeBinomial, ZeroInflatedNegativeBinomial])
@pytest.mark.parametrize("dispersion", ["gene", "gene-cell"])
def test_likelihoods_take_it(monkeypatch, kind, dispersion):
    """As on a GPU, under mixed precision, and with a learned size factor; a value for a model that is not trained."""
    batch, _ = case(False, 37)
    torch.manual_seed(0)
    likelihood = kind(dispersion=dispersion)
    likelihood.build(4, 37)
    h, size = torch.randn(2, CELLS, 4), batch.size_factor.clone().requires_grad_()

    def evaluate():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = likelihood.log_prob(h, batch._replace(size_factor=size))
        likelihood.zero_grad()
        size.grad = None
        value.sum().backward()
        return value.detach(), [size.grad, *(p.grad.clone() for p in likelihood.parameters())]

    value, gradients = evaluate()
    monkeypatch.setattr(sparse, "_supports_kernel", lambda logits: True)
    monkeypatch.setattr(sparse, "_find_counts", None)
    found, others = evaluate()
    assert found.dtype == torch.float32
    assert found.shape == (2, CELLS)
    assert ((found - value).abs() <= 1e-3 + 1e-6 * batch.x.sum(1) + 2.5e-7 * value.abs()).all()
    for one, other in zip(gradients, others, strict=True):
        assert (one - other).norm() <= 1e-4 * one.norm()
    with torch.no_grad():
        assert torch.equal(likelihood.log_prob(h, batch), likelihood.log_prob(h, batch))


def test_no_rows():
    batch, inputs = case(True, 7)
    none = Batch(batch.x[:0], batch.size_factor[:0])
    inputs = [inputs[0][:0].requires_grad_(), inputs[1].requires_grad_(), inputs[2][:0].requires_grad_()]
    value = kernel(none, inputs)
    assert value.shape == (0,)
    assert [g.shape for g in torch.autograd.grad(value.sum(), inputs)] == [t.shape for t in inputs]
