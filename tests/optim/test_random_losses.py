"""Random losses: unbiased gradients, the effect of common random numbers, and errors.

The loss of an observation is E[f(z)] for a distribution of z that depends on the parameters, with a known exact
gradient. Parameters are ``[replicates, WIDTH]``: the replicates of one gradient are independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal

from vaekit import expectation
from vaekit.estimators import Pathwise, ScoreFunction
from vaekit.exceptions import EstimatorError
from vaekit.optim import SAGA, SVRG

ROWS, WIDTH, BATCH, REPLICATES = 16, 3, 4, 20_000
THRESHOLD = 5.0  # |z| of 3 components: exceeded by chance in fewer than 1 of 500,000 runs
A = torch.cos(torch.arange(ROWS * WIDTH, dtype=torch.float64) * 1.7).reshape(ROWS, WIDTH)
TARGET = torch.linspace(0.1, 0.9, ROWS, dtype=torch.float64)
HERE, SNAPSHOT = torch.tensor([0.9, -0.4, 0.3]).double(), torch.tensor([0.7, -0.2, 0.1]).double()
Loss = Callable[[Tensor, Tensor], Tensor]


class Noisy(NamedTuple):
    """A random loss, ``[replicates, rows]``, and the exact gradient of its mean over all rows, ``[WIDTH]``."""

    loss: Loss
    exact: Callable[[Tensor], Tensor]


def outputs(w: Tensor, rows: Tensor) -> Tensor:
    return (A[rows] * w.unsqueeze(-2)).sum(-1)


def pathwise(w: Tensor, rows: Tensor) -> Tensor:
    return expectation(lambda z: z.sin() + z**2, Normal(outputs(w, rows), 1.0), Pathwise())


def pathwise_exact(w: Tensor) -> Tensor:
    mean = A @ w
    return A.T @ (math.exp(-0.5) * mean.cos() + 2 * mean) / ROWS


def score(w: Tensor, rows: Tensor) -> Tensor:
    return expectation(lambda b: (b - TARGET[rows]) ** 2, Bernoulli(logits=outputs(w, rows)), ScoreFunction())


def score_exact(w: Tensor) -> Tensor:
    p = torch.sigmoid(A @ w)
    return A.T @ (p * (1 - p) * (1 - 2 * TARGET)) / ROWS


LOSSES = {"pathwise": Noisy(pathwise, pathwise_exact), "score": Noisy(score, score_exact)}


def closure_of(w: Tensor, loss: Loss) -> Callable[[Tensor], Tensor]:
    """Return a closure on rows, ``[rows]`` or those of each replicate."""

    def closure(rows: Tensor) -> Tensor:
        w.grad = None
        value = loss(w, rows).mean(-1).sum()
        value.backward()
        return value

    return closure


def at(w: Tensor, value: Tensor) -> None:
    with torch.no_grad():
        w.copy_(value.expand_as(w))


def start(replicates: int = REPLICATES) -> Tensor:
    return SNAPSHOT.repeat(replicates, 1).requires_grad_()


def prepared(noisy: Noisy, full: Tensor | None, **kwargs) -> tuple[Tensor, Callable, SVRG]:
    """Return parameters, a closure, and an optimizer with a snapshot; its full gradient is ``full`` or estimated."""
    w = start()
    closure = closure_of(w, noisy.loss)
    optimizer = SVRG([w], 0.1, **kwargs)
    if full is None:
        optimizer.snapshot(closure, torch.arange(ROWS).split(5))
    else:
        optimizer.snapshot(closure_of(w, lambda w, rows: w @ full[:, None]), [torch.arange(ROWS)])
    return w, closure, optimizer


def mini_batches(replicates: int = REPLICATES) -> Tensor:
    return torch.rand(replicates, ROWS).argsort(-1)[:, :BATCH]


def estimates(w: Tensor, closure: Callable, optimizer: SVRG, point: Tensor = HERE) -> Tensor:
    """Return corrected gradients of fresh mini-batches, ``[REPLICATES, WIDTH]``."""
    at(w, point)
    rows, state = mini_batches(), optimizer.rng_state()
    closure(rows)
    optimizer.correct(lambda: closure(rows), state)
    return w.grad


def z_scores(values: Tensor, exact: Tensor) -> Tensor:
    return (values.mean(0) - exact) / (values.std(0) / math.sqrt(len(values)))


def total_variance(values: Tensor) -> float:
    return values.var(0).sum().item()


def own_noise(loss: Loss, point: Tensor = SNAPSHOT) -> float:
    """Return the variance of a mini-batch's gradient by its random numbers alone, averaged over mini-batches."""
    w = start()
    at(w, point)
    variances = []
    for rows in torch.arange(ROWS).split(BATCH):
        closure_of(w, loss)(rows)
        variances.append(total_variance(w.grad))
    return float(np.mean(variances))


@pytest.mark.parametrize("name", LOSSES)
def test_unbiased_if_the_snapshots_full_gradient_is_exact(name):
    noisy = LOSSES[name]
    gradients = estimates(*prepared(noisy, noisy.exact(SNAPSHOT)))
    assert z_scores(gradients, noisy.exact(HERE)).abs().max() < THRESHOLD


@pytest.mark.parametrize("name", LOSSES)
def test_the_error_of_the_full_gradient_is_the_bias_of_the_inner_loop(name):
    noisy = LOSSES[name]
    w, closure, optimizer = prepared(noisy, None)
    error = optimizer.state[w]["full_gradient"] - noisy.exact(SNAPSHOT)
    gradients = estimates(w, closure, optimizer)
    assert z_scores(gradients - error, noisy.exact(HERE)).abs().max() < THRESHOLD
    assert z_scores(gradients, noisy.exact(HERE)).abs().max() < THRESHOLD  # the mean over snapshots is unbiased
    again = estimates(w, closure, optimizer)  # both have the error of the same snapshots in common
    shared = ((gradients - noisy.exact(HERE)) * (again - noisy.exact(HERE))).sum(-1)
    square = error.square().sum(-1)
    assert z_scores((shared - square)[:, None], torch.zeros(1)).abs().max() < THRESHOLD
    assert z_scores(shared[:, None], torch.zeros(1)).min() > THRESHOLD  # so the test has power


@pytest.mark.parametrize("name", LOSSES)
def test_the_squared_bias_is_the_stated_fraction_of_the_noise(name):
    noisy = LOSSES[name]
    noise = own_noise(noisy.loss)
    for draws in (1, 4):
        w = start()
        optimizer = SVRG([w], 0.1)
        optimizer.snapshot(closure_of(w, noisy.loss), torch.arange(ROWS).split(5), draws)
        square = (optimizer.state[w]["full_gradient"] - noisy.exact(SNAPSHOT)).square().sum(-1).mean().item()
        assert square == pytest.approx(noise * BATCH / (ROWS * draws), rel=0.06)


def test_common_random_numbers_cancel_the_noise_and_others_add_it():
    noisy = LOSSES["pathwise"]
    full, noise, near = noisy.exact(SNAPSHOT), own_noise(pathwise), SNAPSHOT + 1e-3
    common, independent = prepared(noisy, full), prepared(noisy, full, independent_noise=True)
    plain = start()
    closure_of(plain, pathwise)(mini_batches())
    without = total_variance(plain.grad)
    assert total_variance(estimates(*common)) < 0.2 * without
    assert total_variance(estimates(*common, near)) < 1e-4 * without
    # the choice of the mini-batch cancels, the noise is there twice
    assert total_variance(estimates(*independent, near)) == pytest.approx(2 * noise, rel=0.05)
    assert total_variance(estimates(*independent, near)) > without


def test_at_the_snapshot_it_is_the_full_gradient():
    w, closure, optimizer = prepared(LOSSES["score"], None)
    gradients = estimates(w, closure, optimizer, SNAPSHOT)
    assert torch.allclose(gradients, optimizer.state[w]["full_gradient"], rtol=0, atol=1e-15)


def test_dropout_masks_are_common():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(WIDTH, 20), torch.nn.Dropout(0.5), torch.nn.Linear(20, 1)).double()
    optimizer = SVRG(net.parameters(), 0.1)

    def closure(rows: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = (net(A[rows])[:, 0] - TARGET[rows]).square().mean()
        loss.backward()
        return loss

    optimizer.snapshot(closure, torch.arange(ROWS).split(5), num_passes=3)
    for _ in range(5):
        state = optimizer.rng_state()
        closure(torch.randperm(ROWS)[:BATCH])
        optimizer.correct(
            lambda: closure(torch.randperm(ROWS)[:BATCH]), state
        )  # replays the choice of the observations, too
    for p in net.parameters():
        assert torch.allclose(p.grad, optimizer.state[p]["full_gradient"], rtol=0, atol=1e-15)


def test_the_global_generator_advances_as_in_a_plain_step():
    for kind in (SVRG, torch.optim.SGD):
        torch.manual_seed(7)
        w = start(2)
        closure = closure_of(w, pathwise)
        optimizer = kind([w], 0.1)
        if kind is SVRG:
            optimizer.snapshot(closure, [torch.arange(ROWS)], num_passes=2)
        optimizer.step(lambda closure=closure: closure(torch.arange(4)))
        after = torch.rand(2)
        if kind is SVRG:
            first = after
    assert first.equal(after)


@pytest.mark.parametrize("source", ["numpy", "generator", "state"])
def test_noise_that_is_not_common_is_rejected(source):
    w = start(1)
    random, own, calls = np.random.default_rng(0), torch.Generator().manual_seed(0), []

    def loss(w: Tensor, rows: Tensor) -> Tensor:
        calls.append(0)
        noise = {"numpy": random.normal(), "state": float(len(calls))}.get(source) or torch.randn((), generator=own)
        return (outputs(w, rows) + noise) ** 2

    closure = closure_of(w, loss)
    for allowed in (True, False):
        optimizer = SVRG([w], 0.1, independent_noise=allowed)
        optimizer.snapshot(closure, [torch.arange(ROWS)])
        if allowed:
            optimizer.step(lambda: closure(torch.arange(4)))
        else:
            with pytest.raises(EstimatorError, match="do not come from torch's global generators"):
                optimizer.step(lambda: closure(torch.arange(4)))


def test_saga_rejects_a_random_loss_whose_noise_would_double():
    w = start()
    closure, parts = closure_of(w, pathwise), torch.arange(ROWS).split(BATCH)
    with pytest.raises(EstimatorError, match="drew random numbers"):
        SAGA([w], 0.1, batch_sizes=[BATCH] * 4).step(lambda: closure(parts[0]), 0)
    optimizer = SAGA([w], 1e-12, batch_sizes=[BATCH] * 4, independent_noise=True)
    variances = []
    for j in (0, 1, 2, 3, *torch.randint(4, (30,)).tolist()):
        optimizer.step(lambda j=j: closure(parts[j]), j)
        variances.append(total_variance(w.grad))
    # the whole noise of g_j, (1 - 1/4)^2 of its old entry and (1/4)^2 of each of the three others
    assert np.mean(variances[4:]) == pytest.approx((2 - 1 / 4) * own_noise(pathwise), rel=0.05)
