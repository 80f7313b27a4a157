"""Iterates equal those of NumPy and copt, and of torch's SGD if the control variate is zero."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from vaekit.optim import SAGA, SVRG

from .problems import ROWS, WIDTH, X, derivative, gradient, logistic, losses_and_outputs, shuffles

LR, DECAY = 0.2, 0.1
# copt 0.9.2 (numba), minimize_saga and minimize_svrg(deriv, X, Y, zeros, 0.2, alpha=0.1, max_iter=4, tol=0) of
# 1 / (1 + exp(-p)) - y, after np.random.seed(0)
COPT = {
    "SAGA": [-0.014900191830000036, -0.23656519698645698, 0.07586043817728266],
    "SVRG": [-0.021094788122251545, -0.24070852772740622, 0.08312272517756736],
}
CHOICES = [
    {},
    {"weight_decay": 0.1},
    {"momentum": 0.9},
    {"momentum": 0.9, "weight_decay": 0.1},
    {"momentum": 0.8, "dampening": 0.5},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.2},
]


def svrg(batch: int, epochs: int, chunk: int = 5, **kwargs: float) -> list[np.ndarray]:
    w, closure = logistic()
    optimizer = SVRG([w], LR, **kwargs)
    path = []
    for rows in shuffles(epochs):
        optimizer.snapshot(closure, torch.arange(ROWS).split(chunk))
        for some in torch.from_numpy(rows).split(batch):
            optimizer.step(lambda some=some: closure(some))
            path.append(w.detach().numpy().copy())
    return path


def saga_observations(batch: int, epochs: int) -> list[np.ndarray]:
    w, _ = logistic()
    optimizer = SAGA([w], LR, weight_decay=DECAY, num_observations=ROWS, num_outputs=1)
    path = []
    for rows in shuffles(epochs):
        for some in torch.from_numpy(rows).split(batch):
            optimizer.step(lambda some=some: losses_and_outputs(w, some), some)
            path.append(w.detach().numpy().copy())
    return path


def test_svrg_equals_numpy():
    w = np.zeros(WIDTH)
    path = iter(svrg(2, 10, weight_decay=DECAY))
    for rows in shuffles(10):
        snapshot, full = w, gradient(w, np.arange(ROWS))
        for some in np.split(rows, ROWS // 2):
            w = w - LR * (gradient(w, some) - gradient(snapshot, some) + full + DECAY * w)
            np.testing.assert_allclose(next(path), w, rtol=0, atol=1e-13)


def test_the_size_of_chunks_changes_only_rounding():
    for chunk in (1, 4, 100):
        np.testing.assert_allclose(svrg(3, 3, chunk), svrg(3, 3), rtol=0, atol=1e-14)


@pytest.mark.parametrize("batch", [1, 3])
def test_saga_of_observations_equals_numpy(batch):
    w, table, mean = np.zeros(WIDTH), np.zeros(ROWS), np.zeros(WIDTH)
    path = iter(saga_observations(batch, 10))
    for rows in shuffles(10):
        for some in np.split(rows, ROWS // batch):
            new = derivative(w, some)
            change = X[some].T @ (new - table[some])
            w = w - LR * (change / batch + mean + DECAY * w)
            mean, table[some] = mean + change / ROWS, new
            np.testing.assert_allclose(next(path), w, rtol=0, atol=1e-13)


def test_saga_of_unequal_mini_batches_equals_numpy():
    parts = [np.arange(0, 5), np.arange(5, 10), np.arange(10, 12)]
    share = np.array([5, 5, 2]) / 12
    w, closure = logistic()
    optimizer = SAGA([w], LR, weight_decay=DECAY, batch_sizes=[5, 5, 2])
    v, table = np.zeros(WIDTH), np.zeros((3, WIDTH))
    for j in np.random.RandomState(1).randint(3, size=60):
        optimizer.step(lambda j=j: closure(torch.from_numpy(parts[j])), j)
        new = gradient(v, parts[j])
        estimate = 3 * share[j] * (new - table[j]) + share @ table
        table[j] = new
        v = v - LR * (estimate + DECAY * v)
        np.testing.assert_allclose(w.detach().numpy(), v, rtol=0, atol=1e-13)


def test_copt():
    np.testing.assert_allclose(saga_observations(1, 4)[-1], COPT["SAGA"], rtol=0, atol=1e-14)
    np.testing.assert_allclose(svrg(1, 4, weight_decay=DECAY)[-1], COPT["SVRG"], rtol=0, atol=1e-14)


def linear_losses(w: torch.Tensor, slope: torch.Tensor):
    """Return a closure of a linear loss: each gradient is ``slope``, and the control variate is exactly zero."""

    def closure(_=None):
        w.grad = None
        loss = (w * slope).sum()
        loss.backward()
        return loss

    return closure


@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize("kind", ["SVRG", "SAGA"])
def test_without_a_control_variate_it_is_torchs_sgd_bit_for_bit(kind, choice):
    slope = torch.tensor([0.3, -1.1, 2.0])
    start = torch.tensor([1.0, 2.0, -3.0])
    mine, theirs = start.clone().requires_grad_(), start.clone().requires_grad_()
    sgd = torch.optim.SGD([theirs], 0.1, **choice)
    if kind == "SVRG":
        optimizer = SVRG([mine], 0.1, **choice)
        optimizer.snapshot(linear_losses(mine, slope), [torch.arange(4)])
    else:
        optimizer = SAGA([mine], 0.1, batch_sizes=[4], **choice)  # one entry: mean and entry cancel
    for _ in range(20):
        sgd.step(linear_losses(theirs, slope))
        optimizer.step(linear_losses(mine, slope), *([0] if kind == "SAGA" else []))
        assert mine.equal(theirs)


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_with_all_rows_in_the_mini_batch_it_is_torchs_sgd(choice):
    (mine, closure), (theirs, other) = logistic(), logistic()
    optimizer, sgd = SVRG([mine], 0.1, **choice), torch.optim.SGD([theirs], 0.1, **choice)
    everything = torch.arange(ROWS)
    optimizer.snapshot(closure, everything.split(5))
    for _ in range(30):
        losses = [o.step(lambda c=c: c(everything)) for o, c in ((optimizer, closure), (sgd, other))]
        assert torch.allclose(*losses, rtol=0, atol=1e-13)
        assert torch.allclose(mine, theirs, rtol=0, atol=1e-13)


def test_groups_have_separate_options():
    (mine, closure), (theirs, other) = logistic(), logistic()
    bias = [torch.zeros((), dtype=torch.float64, requires_grad=True) for _ in range(2)]
    optimizers = [
        kind([{"params": [w], "weight_decay": 0.3}, {"params": [b], "lr": 0.01}], lr=0.1)
        for kind, w, b in ((SVRG, mine, bias[0]), (torch.optim.SGD, theirs, bias[1]))
    ]

    def with_bias(closure, b):
        b.grad = None
        loss = closure(torch.arange(ROWS)) + (b - 2.0) ** 2
        (b - 2.0).square().backward()
        return loss

    optimizers[0].snapshot(lambda _: with_bias(closure, bias[0]), [torch.arange(ROWS)])
    for _ in range(10):
        optimizers[0].step(lambda: with_bias(closure, bias[0]))
        optimizers[1].step(lambda: with_bias(other, bias[1]))
    assert torch.allclose(mine, theirs, rtol=0, atol=1e-14)
    assert torch.allclose(*bias, rtol=0, atol=1e-14)


@pytest.mark.parametrize("method", ["SVRG", "SAGA"])
def test_the_distance_falls_linearly_where_sgd_stalls(method):
    """The distance to the optimum of a strongly convex sum, epoch by epoch."""
    w, closure = logistic()
    best = torch.zeros(WIDTH, dtype=torch.float64)
    for _ in range(30):  # Newton's steps
        p = torch.sigmoid(torch.from_numpy(X) @ best)
        slope = torch.from_numpy(gradient(best.numpy(), np.arange(ROWS))) + DECAY * best
        curvature = torch.from_numpy(X).T * (p * (1 - p)) @ torch.from_numpy(X) / ROWS + DECAY * torch.eye(WIDTH)
        best = best - torch.linalg.solve(curvature, slope)
    plain, plain_closure = logistic()
    sgd = torch.optim.SGD([plain], LR, weight_decay=DECAY)
    optimizer: SVRG | SAGA = SVRG([w], LR, weight_decay=DECAY)
    if method == "SAGA":
        optimizer = SAGA([w], LR, weight_decay=DECAY, batch_sizes=[1] * ROWS)
    distances = []
    for rows in shuffles(60):
        if method == "SVRG":
            optimizer.snapshot(closure, torch.arange(ROWS).split(5))
        for i in torch.from_numpy(rows):
            optimizer.step(lambda i=i: closure(i[None]), *([int(i)] if method == "SAGA" else []))
            sgd.step(lambda i=i: plain_closure(i[None]))
        distances.append((w - best).norm().item())
    logs = np.log10(distances[::10])
    assert distances[-1] < 1e-9
    assert all(later < earlier - 0.5 for earlier, later in pairwise(logs) if earlier > -12)
    assert (plain - best).norm() > 1e-2
