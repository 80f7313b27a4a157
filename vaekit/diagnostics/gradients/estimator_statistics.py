"""Statistics and times of the gradient estimates of single estimators."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from vaekit.diagnostics.gradients.moments import GradientMoments
from vaekit.diagnostics.gradients.reference import BiasTest, Reference, check_time
from vaekit.diagnostics.gradients.target import Target

MIN_ESTIMATES = 8  # for a mean and a variance
NUM_WARMUP_CALLS = 10  # for the moving average of a stateful baseline
WARMUP_CHUNK = 16  # estimates
TIMING_FRACTION = 0.25  # of the time for an estimator


def estimator_statistics(
    target: Target,
    estimator: Any,
    num_estimates: int,
    reference: Reference | None,
    max_seconds: float | None,
    update_progress: Callable[[float], None],
) -> dict[str, Any]:
    """Estimate gradients with one estimator and return their row of the report, without times.

    The row also has ``squared_bias`` if there is a reference. The remaining time is for :func:`time_gradients`.
    """
    budget = math.inf if max_seconds is None else (1 - TIMING_FRACTION) * max_seconds
    begin = time.perf_counter()
    evaluations = target.num_evaluations(estimator)  # first: raises the errors of the graph itself
    target.finite_gradients(estimator, 1)
    check_time("one gradient", seconds := time.perf_counter() - begin, budget, max_seconds)
    chunk_size = target.chunk_size(estimator)
    size = _warm_up(target, estimator, min(chunk_size, WARMUP_CHUNK), seconds, begin, budget)
    num_planned, deadlines = num_estimates, [math.inf, math.inf]
    if max_seconds is not None:
        seconds = _seconds(target, estimator, size) / size
        check_time(f"{MIN_ESTIMATES} gradients", MIN_ESTIMATES * seconds, budget, max_seconds)
        start = time.perf_counter()
        remaining = max(begin + budget - start, MIN_ESTIMATES * seconds)  # the warm-up may have used a short time up
        num_planned = min(num_estimates, max(MIN_ESTIMATES, int(remaining / max(seconds, 1e-9))))
        deadlines = [start + remaining / 2, start + remaining]
    moments = GradientMoments(None if reference is None else reference.mean)
    test: BiasTest | None = None
    for half, deadline in zip((num_planned // 2, num_planned - num_planned // 2), deadlines, strict=True):
        for index in range(0, half, chunk_size):
            if index >= MIN_ESTIMATES // 2 and time.perf_counter() > deadline:
                break
            gradients = target.finite_gradients(estimator, min(chunk_size, half - index))
            moments.update(gradients)
            if test is not None:
                test.update(gradients)
            update_progress(moments.count / num_planned)
        if test is None and reference is not None:
            test = BiasTest(moments.mean, reference)
    row = {"variance": moments.variance, "evaluations": evaluations, "num_estimates": moments.count}
    return row | _relative_errors(moments, reference, test)


def _warm_up(target: Target, estimator: Any, max_size: int, seconds: float, begin: float, budget: float) -> int:
    """Compute estimates in growing chunks until compilation and moving averages are done; return the chunk size."""
    size = 1
    while size < max_size and 8 * seconds < budget:  # a chunk may take as long as its estimates one by one
        size = min(4 * size, max_size)
        seconds = _seconds(target, estimator, size)
    parts = estimator.values() if isinstance(estimator, Mapping) else [estimator]
    is_stateful = any(getattr(part, "is_stateful", False) for part in parts)
    for _ in range(NUM_WARMUP_CALLS if is_stateful else 1):
        if 4 * (time.perf_counter() - begin) < budget:
            target.finite_gradients(estimator, size)
    return size


def _seconds(target: Target, estimator: Any, count: int) -> float:
    start = time.perf_counter()
    target.finite_gradients(estimator, count)
    return time.perf_counter() - start


def _relative_errors(moments: GradientMoments, reference: Reference | None, test: BiasTest | None) -> dict[str, Any]:
    """Return the errors relative to the norm of the reference, or of the mean without a reference."""
    norm = (moments.mean if reference is None else reference.mean).norm().item() or math.nan
    errors = {"relative_std": math.sqrt(moments.variance) / norm}
    if reference is None or test is None:
        return errors
    difference = (moments.mean - reference.mean).norm().item()
    noise = moments.variance / moments.count + reference.noise
    z, p_value = test.compute()
    return errors | {
        "relative_bias": difference / norm,
        "bias_noise": math.sqrt(noise) / norm,
        "z": z,
        "p_value": p_value,
        "cosine": moments.cosine,
        "squared_bias": max(0.0, difference**2 - noise - moments.rounding),
    }


def time_gradients(
    target: Target, estimators: Mapping[str, Any], num_timings: int, max_seconds: float | None
) -> tuple[dict[str, float], dict[str, Exception]]:
    """Return the median milliseconds of one gradient, and the error of each estimator that failed.

    The estimators alternate, so that other load on the machine affects all of them equally.
    """
    times: dict[str, list[float]] = {name: [] for name in estimators}
    totals = dict.fromkeys(estimators, 0.0)
    errors: dict[str, Exception] = {}
    budget = math.inf if max_seconds is None else 1000 * TIMING_FRACTION * max_seconds
    synchronize = torch.cuda.synchronize if target.params[0].is_cuda else lambda: None
    for repetition in range(max(1, num_timings) + 1):
        for name, estimator in estimators.items():
            if name in errors or (times[name] and totals[name] + times[name][-1] > budget):
                continue
            try:
                synchronize()
                start = time.perf_counter()
                target.training_gradient(estimator)
                synchronize()
            except Exception as error:  # a custom cost or estimator may raise anything: the other rows are valid
                errors[name] = error
                continue
            milliseconds = 1000 * (time.perf_counter() - start)
            totals[name] += milliseconds
            if repetition or 2 * milliseconds > budget:  # the first repetition is slower
                times[name].append(milliseconds)
    return {name: statistics.median(values) for name, values in times.items() if values}, errors
