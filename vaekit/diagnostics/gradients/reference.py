"""Gradients that the estimates of a report are compared with, and the test of unbiasedness against them."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vaekit.diagnostics.gradients.estimator_catalog import label
from vaekit.diagnostics.gradients.moments import ROUNDING_FACTOR, GradientMoments
from vaekit.diagnostics.gradients.target import Target
from vaekit.exceptions import EstimatorError

NUM_BLOCKS = 16  # means over parts of the second half, which give its standard error along any direction
NUM_PILOT = 16  # estimates that decide whether an estimator has a variance
BUDGET_FACTOR = 4  # of the time for one estimator


class Reference(NamedTuple):
    """A gradient that estimates are compared with.

    ``mean`` is the gradient in float64, and ``noise`` the expected squared error of its norm. ``first`` is the mean of
    the first half of its estimates, and ``blocks`` are means over parts of the second half: :class:`BiasTest` selects a
    direction with one half and tests it with the other. ``blocks`` is None for an exact gradient.
    """

    mean: Tensor
    first: Tensor
    blocks: Tensor | None
    noise: float
    description: str

    @classmethod
    def exact(cls, gradient: Tensor, description: str) -> Reference:
        """Return a reference without an error."""
        return cls(gradient, gradient, None, 0.0, description)


class BiasTest:
    """One-sided t-test of the second half of the estimates along the difference of the first half from the reference.

    The direction of an unbiased estimator is noise and independent of the second half. The mean projection of the
    second half over its standard error then follows Student's t for any number of components. A bias makes it large.
    """

    def __init__(self, mean_of_first_half: Tensor, reference: Reference) -> None:
        difference = mean_of_first_half - reference.first
        norm = difference.norm()
        fallback = torch.full_like(difference, 1 / math.sqrt(len(difference)))
        self.direction = difference / norm if norm > 0 else fallback
        self._reference = reference
        self._projections: list[Tensor] = []
        self._squared_norms = 0.0
        self._resolution = torch.finfo(torch.float64).eps

    def update(self, gradients: Tensor) -> None:
        """Add gradients of the second half, shape (count, components)."""
        self._projections.append(gradients @ self.direction.to(gradients.dtype))
        self._squared_norms += gradients.square().sum(dtype=torch.float64).item()
        self._resolution = torch.finfo(gradients.dtype).eps

    def compute(self) -> tuple[float, float]:
        """Return the statistic and its p-value, with Welch's degrees of freedom if the reference has an error."""
        from scipy import stats

        values = torch.cat(self._projections).double()
        count, num_blocks = len(values), 2
        error = values.var().item() / count if count > 1 else math.inf
        expected, reference_error = (self._reference.mean @ self.direction).item(), 0.0
        if self._reference.blocks is not None:
            blocks = self._reference.blocks.double() @ self.direction
            num_blocks = len(blocks)
            expected, reference_error = blocks.mean().item(), blocks.var().item() / num_blocks
        freedom = error**2 / (count - 1) + reference_error**2 / (num_blocks - 1)
        degrees = (error + reference_error) ** 2 / freedom if freedom > 0 else 1e6
        rounding = (ROUNDING_FACTOR * self._resolution) ** 2 * self._squared_norms / count
        z = (values.mean().item() - expected) / math.sqrt(error + reference_error + rounding + 1e-300)
        return z, float(stats.t.sf(z, degrees))


def check_time(name: str, seconds: float, budget: float, max_seconds: float | None) -> None:
    """Raise an error if a computation exceeds its time."""
    if seconds > budget:
        raise EstimatorError(f"max_seconds={max_seconds:g} is too short for {name} ({seconds:.3g} s)")


def estimate_reference(
    target: Target,
    estimator: Any,
    num_estimates: int,
    max_seconds: float | None,
    update_progress: Callable[[float], None],
    description: str | None = None,
) -> Reference:
    """Estimate the reference with an unbiased estimator, within four times ``max_seconds``.

    One estimate suffices if the estimator has no variance. ``update_progress`` is called with the completed fraction,
    and ``description`` replaces the label of an exact estimator. Raises :class:`EstimatorError` if the time is too
    short.
    """
    estimator, pilot = copy.deepcopy(estimator), GradientMoments()
    budget = math.inf if max_seconds is None else BUDGET_FACTOR * max_seconds
    begin = time.perf_counter()
    pilot.update(target.finite_gradients(estimator, 1))
    check_time("one gradient", time.perf_counter() - begin, budget, max_seconds)
    start = time.perf_counter()  # the second estimate is timed: the first may compile
    pilot.update(target.finite_gradients(estimator, 1))
    seconds = time.perf_counter() - start
    if pilot.variance == 0 and NUM_PILOT * seconds < budget:
        pilot.update(target.finite_gradients(estimator, NUM_PILOT - 2))
    if pilot.variance == 0:
        update_progress(1)
        return Reference.exact(pilot.mean, description or f"exact, by {label(estimator)}")
    remaining = budget - (time.perf_counter() - begin)
    check_time(f"{2 * NUM_BLOCKS} gradients", 2 * NUM_BLOCKS * seconds, remaining, max_seconds)
    block_size = math.ceil(max(1, num_estimates / (2 * NUM_BLOCKS)))
    if max_seconds is not None:
        block_size = min(block_size, max(1, math.floor(remaining / (2 * NUM_BLOCKS * max(seconds, 1e-9)))))
    chunk_size = target.chunk_size(estimator)
    moments, means = GradientMoments(), []
    for index in range(2 * NUM_BLOCKS):
        block = GradientMoments()
        for start_index in range(0, block_size, chunk_size):
            gradients = target.finite_gradients(estimator, min(chunk_size, block_size - start_index))
            moments.update(gradients)
            block.update(gradients)
        means.append(block.mean)
        update_progress((index + 1) / (2 * NUM_BLOCKS))
    first, second = torch.stack(means[:NUM_BLOCKS]).mean(0), torch.stack(means[NUM_BLOCKS:]).float()
    noise = moments.variance / moments.count
    relative = math.sqrt(noise) / max(moments.mean.norm().item(), 1e-300)
    text = f"mean of {moments.count} estimates of {label(estimator)}, standard error {relative:.2%} of its norm"
    return Reference(moments.mean, first, second, noise, text)
