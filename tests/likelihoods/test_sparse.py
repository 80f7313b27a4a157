"""The pass over non-zero counts against the dense formula in float64."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from vaekit.batch import Batch
from vaekit.likelihoods import NegativeBinomial, ZeroInflatedNegativeBinomial
from vaekit.likelihoods.counts import sparse
from vaekit.likelihoods.counts.counts_numba import SMALL, _tables, sums

CELLS, GENES = 9, 37
Case = tuple[Batch, list[Tensor]]


def case(inflated: bool, large: bool, rows: tuple[int, ...] = ()) -> Case:
    """Return a batch, and logits, log inverse dispersions (1e-4 to 1e8) and gate logits; the last cell is empty."""
    x = torch.poisson(torch.rand(CELLS, GENES) * 2)
    if large:
        x[0, 0], x[1, 1] = 1e5, 3e3
        x[2, :5] = torch.tensor([SMALL - 1.0, SMALL, SMALL + 1, SMALL + 2, 300])
    x[-1] = 0
    logits = torch.randn(*rows, CELLS, GENES) * 3
    inputs = [logits, torch.empty(GENES).uniform_(-9, 18)]
    if inflated:
        inputs.append(torch.randn(*rows, CELLS, GENES) * 6 - 1)
    return Batch(x, x.sum(1, keepdim=True).clamp_min(1)), inputs


def dense(batch: Batch, inputs: list[Tensor]) -> Tensor:
    gate = inputs[2] if len(inputs) == 3 else None
    return sparse.dense_log_prob(inputs[0], batch.size_factor.double().log(), inputs[1], gate, batch.x.double())


def fast(batch: Batch, inputs: list[Tensor]) -> Tensor:
    return sparse.log_prob(inputs[0], batch, *inputs[1:])


@pytest.fixture
def never_dense(monkeypatch):
    """Configure the dense formula to fail if it replaces the fast one."""
    original = sparse.dense_log_prob
    allowed = {"yes": False}

    def check(*arguments):
        assert allowed["yes"], "the dense formula was taken"
        return original(*arguments)

    monkeypatch.setattr(sparse, "dense_log_prob", check)
    return allowed


@pytest.mark.parametrize("rows", [(), (3,), (2, 3)])
@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("inflated", [False, True])
def test_value_and_gradient_are_the_dense_ones(never_dense, rows, large, inflated):
    batch, inputs = case(inflated, large, rows)
    inputs = [t.requires_grad_() for t in inputs]
    value = fast(batch, inputs)
    weight = torch.randn_like(value)
    found = torch.autograd.grad(value, inputs, weight)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    never_dense["yes"] = True
    wanted_value = dense(batch, exact)
    wanted = torch.autograd.grad(wanted_value, exact, weight.double())
    assert value.dtype == torch.float32
    # float32 rounds each log-mean by 1e-7 of itself, and a count of 1e5 multiplies that
    assert ((value - wanted_value).abs() <= 1e-3 + 1e-6 * batch.size_factor.squeeze(1)).all()
    for one, other in zip(found, wanted, strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm()
    # every element but those of log_theta at 1e8, where the dense formula cancels
    torch.testing.assert_close(found[0].double(), wanted[0], rtol=1e-4, atol=1e-6 * wanted[0].abs().max().item())


@pytest.mark.parametrize("lead", [(CELLS,), (3, CELLS), (1, CELLS), (3, 1)])
@pytest.mark.parametrize("inflated", [False, True])
def test_dispersions_that_differ_by_cell(never_dense, lead, inflated):
    batch, inputs = case(inflated, large=True, rows=(3,))
    inputs[1] = torch.empty(*lead, GENES).uniform_(-9, 18)
    inputs = [t.requires_grad_() for t in inputs]
    value = fast(batch, inputs)
    weight = torch.randn_like(value)
    found = torch.autograd.grad(value, inputs, weight)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    never_dense["yes"] = True
    wanted_value = dense(batch, exact)
    assert ((value - wanted_value).abs() <= 1e-3 + 1e-6 * batch.size_factor.squeeze(1)).all()
    for one, other in zip(found, torch.autograd.grad(wanted_value, exact, weight.double()), strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm()


@pytest.mark.parametrize("rows", [(), (3,)])
def test_size_factors_that_differ_by_row(never_dense, rows):
    batch, inputs = case(True, large=True, rows=(3,))
    batch = batch._replace(size_factor=torch.rand(*rows, CELLS, 1) * 100 + 1)
    found = fast(batch, inputs)
    never_dense["yes"] = True
    wanted = dense(batch, [t.double() for t in inputs])
    assert ((found - wanted).abs() <= 1e-3 + 1e-6 * batch.x.sum(1)).all()


def test_sums_at_any_dispersion():
    import mpmath

    for n, t in itertools.product((1, 2, SMALL, SMALL + 1, 40, 1023, 1024, 100_000), (1e-4, 0.3, 5.0, 1e4, 1e8)):
        log_sum, slope_sum = sums(float(n), t)
        with mpmath.workdps(50):
            first = mpmath.loggamma(n + mpmath.mpf(t)) - mpmath.loggamma(t) - n * mpmath.log(t) - mpmath.loggamma(n + 1)
            second = t * (mpmath.digamma(n + mpmath.mpf(t)) - mpmath.digamma(t))
        assert log_sum == pytest.approx(float(first), rel=1e-10, abs=1e-10), (n, t)
        assert slope_sum == pytest.approx(float(second), rel=1e-10), (n, t)


def test_tables_of_sums():
    theta = np.geomspace(1e-17, 1e17, 50).astype(np.float32)
    logs, slopes = np.empty((2, SMALL + 1, len(theta)), np.float32)
    _tables(theta, 1 / theta, logs, slopes)
    for n, j in itertools.product(range(1, SMALL + 1), range(len(theta))):
        assert (logs[n, j], slopes[n, j]) == pytest.approx(sums(float(n), float(theta[j])), rel=2e-6, abs=1e-6)
    assert not logs[0].any()
    assert not slopes[0].any()


@pytest.mark.parametrize("inflated", [False, True])
def test_second_derivatives(inflated):
    batch, inputs = case(inflated, large=False)
    inputs[1] = inputs[1] / 4
    inputs = [t.requires_grad_() for t in inputs]
    directions = [torch.randn_like(t) for t in inputs]

    def twice(function):
        first = torch.autograd.grad(function(batch, inputs).square().sum(), inputs, create_graph=True)
        product = sum((g * d).sum() for g, d in zip(first, directions, strict=True))
        return torch.autograd.grad(product, inputs)

    for one, other in zip(twice(fast), twice(dense), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * other.abs().max().item())


def test_a_learned_size_factor_has_its_gradient(never_dense):
    batch, inputs = case(True, large=False)
    size = batch.size_factor.clone().requires_grad_()
    (found,) = torch.autograd.grad(fast(batch._replace(size_factor=size), inputs).sum(), size)
    never_dense["yes"] = True
    (wanted,) = torch.autograd.grad(dense(batch._replace(size_factor=size), inputs).sum(), size)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6 * wanted.abs().max().item())


@pytest.mark.parametrize("kind", [NegativeBinomial, ZeroInflatedNegativeBinomial])
def test_autocast_keeps_the_likelihood_in_float32(kind):
    batch, _ = case(False, large=False)
    likelihood = kind()
    likelihood.build(4, GENES)
    h = torch.randn(CELLS, 4, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = likelihood.log_prob(h, batch)
        logits = likelihood.composition(h).float()
        gate = likelihood.gate(h).float() if kind is ZeroInflatedNegativeBinomial else None
        value.sum().backward()
    assert value.dtype == torch.float32
    assert h.grad.isfinite().all()
    parameters = [logits, likelihood.log_inverse_dispersion, *([] if gate is None else [gate])]
    torch.testing.assert_close(value.double(), dense(batch, [t.double() for t in parameters]), rtol=0, atol=1e-3)


def test_known_places_of_the_non_zero_counts(never_dense):
    batch, inputs = case(False, large=True)
    wanted = fast(batch, inputs)
    known = batch._replace(nonzero=sparse._find_entries(batch.x))
    assert fast(known, inputs).equal(wanted)
    assert fast(known._replace(x=batch.x * 0 + 1), inputs).equal(fast(batch._replace(x=batch.x * 0 + 1), inputs))


@pytest.mark.parametrize("x", [0.5, -1.0, torch.nan, torch.inf])
def test_values_that_are_no_counts_take_the_dense_formula(x):
    batch, inputs = case(False, large=False)
    batch.x[0, 0] = x
    size = torch.ones(CELLS, 1)
    found, wanted = (f(batch._replace(size_factor=size), inputs) for f in (fast, dense))
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-3, equal_nan=True)


@pytest.mark.parametrize(("log_theta", "gate"), [(0.0, -1000.0), (0.0, -200.0), (60.0, 0.0), (-60.0, 0.0)])
def test_parameters_beyond_the_range(log_theta, gate):
    batch, inputs = case(True, large=True)
    inputs[1].fill_(log_theta)
    inputs[2].fill_(gate)
    inputs = [t.requires_grad_() for t in inputs]
    value = fast(batch, inputs)
    torch.testing.assert_close(value.double(), dense(batch, inputs), rtol=1e-6, atol=1e-3)
    assert all(g.isfinite().all() for g in torch.autograd.grad(value.sum(), inputs))


def test_no_non_zero_count_at_all(never_dense):
    batch, inputs = case(True, large=False)
    empty = Batch(torch.zeros_like(batch.x), torch.ones(CELLS, 1))
    inputs = [t.requires_grad_() for t in inputs]
    value = fast(empty, inputs)
    assert all(g.isfinite().all() for g in torch.autograd.grad(value.sum(), inputs))
    never_dense["yes"] = True
    torch.testing.assert_close(value.double(), dense(empty, inputs), rtol=0, atol=1e-3)


@pytest.mark.parametrize("inflated", [False, True])
def test_nan_is_not_lost(inflated):
    batch, inputs = case(inflated, large=False)
    for part in (inputs[0], *inputs[2:]):
        broken = [t.clone() for t in inputs]
        broken[next(i for i, t in enumerate(inputs) if t is part)][1, 2] = torch.nan
        assert fast(batch, broken).isnan().tolist() == [i == 1 for i in range(CELLS)]


def test_float64_takes_the_dense_formula():
    batch, inputs = case(True, large=True)
    inputs = [t.double() for t in inputs]
    assert fast(batch._replace(x=batch.x.double()), inputs).equal(dense(batch, inputs))
