"""Measurement of gradient estimators on a target: moments, test of unbiasedness, times."""

from __future__ import annotations

import contextlib
import copy
import math
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vaekit.diagnostics.gradients.estimator_catalog import is_unbiased, label
from vaekit.diagnostics.gradients.moments import GradientMoments, Projection, Reference
from vaekit.diagnostics.gradients.target import Target
from vaekit.estimators import Estimator
from vaekit.exceptions import EstimatorError, VaekitError

if TYPE_CHECKING:
    import pandas as pd

BLOCKS = 16  # means over parts of the reference's second half, which tell its error along any direction
PILOT = 16  # draws of a reference that tell whether it has a variance at all
STEADY = 10  # calls in which a baseline that learns from costs settles, before anything is measured
FEWEST = 8  # draws that tell a mean and a variance
TIMED = 0.25  # share of an estimator's time in which one gradient is timed
COLUMNS = ["estimator", "unbiased", "relative_bias", "bias_noise", "z", "p_value", "variance", "relative_std",
           "cosine", "evaluations", "milliseconds", "variance_x_time", "mse_x_time", "num_estimates", "error"]  # fmt: skip


@contextlib.contextmanager
def isolated_rng(seed: int, params: Sequence[Tensor]) -> Iterator[None]:
    """Set torch's and NumPy's random state within, and put it back afterwards."""
    devices = sorted({p.device.index or 0 for p in params if p.is_cuda})
    numpy_state = np.random.get_state()  # a cost may be a simulator
    with torch.random.fork_rng(devices):
        try:
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)
            yield
        finally:
            np.random.set_state(numpy_state)


def measure(
    target: Target,
    estimators: Mapping[str, Any],
    num_estimates: int,
    reference: Any,
    *,
    words: str | None,
    reference_draws: int,
    timings: int,
    max_seconds: float | None,
    seed: int,
    progress: bool,
    unbiased: Mapping[str, bool] | None = None,
    title: str = "gradients",
) -> pd.DataFrame:
    """Measure a target's gradients; arguments and result as in :func:`gradient_report`.

    ``reference`` is a vector, an estimator (or dictionary by node) or None, and ``words`` say what it is. ``unbiased``
    says by label what theory says, where that is not to be seen from the estimators alone.
    """
    import pandas as pd

    if num_estimates < FEWEST:
        raise EstimatorError(
            f"num_estimates is {num_estimates}; at least {FEWEST} are needed to tell a mean and a variance, better 1000"
        )
    if not estimators:
        raise EstimatorError("estimators is empty: there is nothing to measure")
    fresh = {name: copy.deepcopy(item) for name, item in estimators.items()}
    total = num_estimates * (len(fresh) + isinstance(reference, Estimator | Mapping))
    with _progress_bar(total, title, progress) as bar:
        with isolated_rng(seed + 1, target.params):  # its draws are independent of those that it is compared with
            known, words = _reference(target, reference, words, reference_draws, max_seconds, bar, num_estimates)
        rows: dict[str, dict[str, Any]] = {}
        for name, item in fresh.items():
            bar.set_postfix_str(name, refresh=False)
            with isolated_rng(seed, target.params):
                try:
                    rows[name] = _moments(target, item, num_estimates, known, max_seconds, bar)
                except Exception as error:  # of a foreign cost or estimator: the other rows stand
                    rows[name] = {"error": explain(error)}
                    bar.update(num_estimates)
    served = [name for name, row in rows.items() if "error" not in row]
    with isolated_rng(seed, target.params):
        times, failed = _times(target, {name: fresh[name] for name in served}, timings, max_seconds)
    rows |= {name: {"error": reason} for name, reason in failed.items()}
    records = []
    for name, row in rows.items():
        in_theory = is_unbiased(fresh[name]) if unbiased is None else unbiased[name]
        known_unbiased = in_theory and "error" not in row  # its condition may not hold here
        spent, variance = times.get(name, math.nan), row.get("variance", math.nan)
        squared_bias = row.pop("squared_bias", 0.0 if known_unbiased else math.nan)
        records.append(
            {"estimator": name, "unbiased": known_unbiased, **row, "milliseconds": spent,
             "variance_x_time": variance * spent, "mse_x_time": (variance + squared_bias) * spent}
        )  # fmt: skip
    report = pd.DataFrame(records).reindex(columns=COLUMNS).fillna({"error": ""})
    report = report.astype({"evaluations": "Int64", "num_estimates": "Int64"})
    report.attrs = {
        "best_unbiased": _least(report[report.unbiased], "variance_x_time"),
        "best": _least(report, "mse_x_time"),
        "reference": words or "none",
        "norm": math.nan if known is None else known.mean.norm().item(),
    }
    return report


def explain(error: Exception) -> str:
    """Return an error as a reason in one line, with its type unless it is the project's own."""
    text = " ".join(str(error).split())
    return text if isinstance(error, VaekitError) else f"{type(error).__name__}: {text}"


def _estimates(target: Target, estimator: Any, count: int) -> Tensor:
    """Return gradient estimates, all of them finite."""
    gradients = target.gradients(estimator, count)
    if odd := int((~gradients.isfinite()).any(1).sum()):
        raise EstimatorError(f"{odd} of {len(gradients)} gradients are not finite (NaN or infinite)")
    return gradients


def _seconds(target: Target, estimator: Any, count: int) -> float:
    started = time.perf_counter()
    _estimates(target, estimator, count)
    return time.perf_counter() - started


def _progress_bar(total: int, title: str, progress: bool) -> Any:
    """Return a progress bar of draws; a notebook's, and what that imports, only where it is to be seen."""
    if not progress:
        from tqdm import tqdm

        return tqdm(disable=True)
    from tqdm.auto import tqdm as seen

    often = sys.stderr.isatty() or "ipykernel" in sys.modules
    return seen(total=total, desc=title, unit="draw", mininterval=0.2 if often else 10, dynamic_ncols=True)


def _least(report: pd.DataFrame, column: str) -> str | None:
    """Return the label of the row with the smallest value; of several without an error, that of the fastest."""
    known = report[report[column].notna()].sort_values([column, "milliseconds"])
    return None if known.empty else str(known.estimator.iloc[0])


def _reference(
    target: Target,
    reference: Any,
    words: str | None,
    num_estimates: int,
    max_seconds: float | None,
    bar: Any,
    share: int,
) -> tuple[Reference | None, str | None]:
    """Return what estimates are compared with; ``share`` is its part of the progress bar."""
    if reference is None:
        return None, words
    if isinstance(reference, Tensor):
        return Reference(reference, reference, None, 0.0), words
    bar.set_postfix_str("reference", refresh=False)
    try:
        return _estimated(target, copy.deepcopy(reference), words, num_estimates, max_seconds, bar, share)
    except Exception as error:  # the estimators can be measured without it
        return None, f"none, as that by {label(reference)} failed: {explain(error)}"


def _estimated(
    target: Target,
    estimator: Any,
    words: str | None,
    num_estimates: int,
    max_seconds: float | None,
    bar: Any,
    share: int,
) -> tuple[Reference, str]:
    """Return the reference by an unbiased estimator, within four times ``max_seconds``, and what to call it."""
    pilot, budget = GradientMoments(), math.inf if max_seconds is None else 4 * max_seconds
    begun = time.perf_counter()
    pilot.add(_estimates(target, estimator, 1))
    if (seconds := time.perf_counter() - begun) > budget:
        raise EstimatorError(f"one gradient takes {seconds:.3g} s, and max_seconds={max_seconds:g}")
    started = time.perf_counter()  # of the second: the first may compile
    pilot.add(_estimates(target, estimator, 1))
    seconds = time.perf_counter() - started
    assert pilot.mean is not None
    if pilot.variance == 0 and PILOT * seconds < budget:
        pilot.add(_estimates(target, estimator, PILOT - 2))
    if pilot.variance == 0:
        bar.update(share)
        return Reference(pilot.mean, pilot.mean, None, 0.0), words or f"exact, by {label(estimator)}"
    left = budget - (time.perf_counter() - begun)
    if 2 * BLOCKS * seconds > left:
        raise EstimatorError(f"{2 * BLOCKS} draws take {2 * BLOCKS * seconds:.3g} s, and max_seconds={max_seconds:g}")
    fits = left / (2 * BLOCKS * max(seconds, 1e-9))
    size = math.ceil(max(1, min(num_estimates / (2 * BLOCKS), math.floor(fits) if math.isfinite(fits) else fits)))
    chunk, done = target.chunk(estimator), 0
    moments, blocks = GradientMoments(), []
    for number in range(2 * BLOCKS):
        block = GradientMoments()
        for start in range(0, size, chunk):
            gradients = _estimates(target, estimator, min(chunk, size - start))
            moments.add(gradients)
            block.add(gradients)
        assert block.mean is not None
        blocks.append(block.mean)
        bar.update(share * (number + 1) // (2 * BLOCKS) - done)
        done = share * (number + 1) // (2 * BLOCKS)
    assert moments.mean is not None
    first, second = torch.stack(blocks[:BLOCKS]).mean(0), torch.stack(blocks[BLOCKS:]).float()
    known = Reference(moments.mean, first, second, moments.variance / moments.count)
    relative = math.sqrt(known.noise) / max(known.mean.norm().item(), 1e-300)
    return known, f"mean of {moments.count} draws of {label(estimator)}, standard error {relative:.2%} of its norm"


def _moments(
    target: Target, estimator: Any, num_estimates: int, reference: Reference | None, max_seconds: float | None, bar: Any
) -> dict[str, Any]:
    """Draw one estimator's gradients, and return its part of the row; the rest of its time is for :func:`_times`."""
    budget = math.inf if max_seconds is None else (1 - TIMED) * max_seconds
    begun = time.perf_counter()
    evaluations = target.rows(estimator)  # what is wrong with the graph is told here, and not hidden by a trial
    _estimates(target, estimator, 1)
    if (seconds := time.perf_counter() - begun) > budget:
        raise EstimatorError(f"one gradient takes {seconds:.3g} s, and max_seconds={max_seconds:g}")
    chunk = target.chunk(estimator)
    warm, size = min(chunk, 16), 1
    while size < warm and 8 * seconds < budget:  # together they may take no longer than one
        size = min(4 * size, warm)
        seconds = _seconds(target, estimator, size)
    stateful = any(getattr(part, "is_stateful", False) for part in _parts(estimator))
    for _ in range(STEADY if stateful else 1):
        if 4 * (time.perf_counter() - begun) < budget:
            _estimates(target, estimator, size)
    wanted, ends = num_estimates, [math.inf, math.inf]
    if max_seconds is not None:
        each = _seconds(target, estimator, size) / size
        if FEWEST * each > budget:
            raise EstimatorError(f"{FEWEST} draws take {FEWEST * each:.3g} s, and max_seconds={max_seconds:g}")
        started = time.perf_counter()
        left = max(begun + budget - started, FEWEST * each)  # trials of a short time may have used it up
        wanted = min(num_estimates, max(FEWEST, int(left / max(each, 1e-9))))
        ends = [started + left / 2, started + left]
    moments = GradientMoments(None if reference is None else reference.mean)
    projection = None
    done = 0
    for half, end in zip((wanted // 2, wanted - wanted // 2), ends, strict=True):
        for start in range(0, half, chunk):
            if start >= FEWEST // 2 and time.perf_counter() > end:
                break
            gradients = _estimates(target, estimator, min(chunk, half - start))
            moments.add(gradients)
            if projection is not None:
                projection.add(gradients)
            done += len(gradients)
            bar.update(done * num_estimates // wanted - (done - len(gradients)) * num_estimates // wanted)
        if projection is None and reference is not None:
            assert moments.mean is not None
            projection = Projection(moments.mean, reference)
    assert moments.mean is not None
    row: dict[str, Any] = {"variance": moments.variance, "evaluations": evaluations, "num_estimates": done}
    deviation = math.sqrt(moments.variance)
    if reference is None or projection is None:
        norm = moments.mean.norm().item()
        return {**row, "relative_std": deviation / norm if norm else math.nan}
    norm = reference.mean.norm().item()
    difference = (moments.mean - reference.mean).norm().item()
    noise = moments.variance / done + reference.noise
    z, p_value = projection.test()
    return {
        **row,
        "relative_bias": difference / norm if norm else math.nan,
        "bias_noise": math.sqrt(noise) / norm if norm else math.nan,
        "z": z,
        "p_value": p_value,
        "relative_std": deviation / norm if norm else math.nan,
        "cosine": moments.cosine,
        "squared_bias": max(0.0, difference**2 - noise - moments.rounding),
    }


def _parts(estimator: Any) -> list[Any]:
    """Return the estimators in a dictionary, or the one."""
    return list(estimator.values()) if isinstance(estimator, Mapping) else [estimator]


def _times(
    target: Target, estimators: Mapping[str, Any], timings: int, max_seconds: float | None
) -> tuple[dict[str, float], dict[str, str]]:
    """Return the median milliseconds of one gradient, and the reason for each estimator that failed.

    They are timed in turns, so that a busy moment strikes all alike.
    """
    found: dict[str, list[float]] = {name: [] for name in estimators}
    used = dict.fromkeys(estimators, 0.0)
    failed: dict[str, str] = {}
    budget = math.inf if max_seconds is None else 1000 * TIMED * max_seconds
    cuda = target.params[0].is_cuda
    for number in range(max(1, timings) + 1):
        for name, item in estimators.items():
            if name in failed or (found[name] and used[name] + found[name][-1] > budget):
                continue
            try:
                if cuda:
                    torch.cuda.synchronize()
                started = time.perf_counter()
                target.single_gradient(item)
                if cuda:
                    torch.cuda.synchronize()
            except Exception as error:  # of a foreign cost or estimator: the other rows stand
                failed[name] = explain(error)
                continue
            spent = 1000 * (time.perf_counter() - started)
            used[name] += spent
            if number or 2 * spent > budget:  # the first is slower
                found[name].append(spent)
    return {name: statistics.median(values) for name, values in found.items() if values}, failed
