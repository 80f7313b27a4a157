"""The table of a gradient report, for any target."""

from __future__ import annotations

import contextlib
import copy
import importlib
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor

from vaekit.diagnostics.gradients.estimator_catalog import is_unbiased, label
from vaekit.diagnostics.gradients.estimator_statistics import MIN_ESTIMATES, estimator_statistics, time_gradients
from vaekit.diagnostics.gradients.reference import Reference, estimate_reference
from vaekit.diagnostics.gradients.target import Target
from vaekit.exceptions import EstimatorError, VaekitError

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ["estimator", "unbiased", "relative_bias", "bias_noise", "z", "p_value", "variance", "relative_std", "cosine",
           "evaluations", "milliseconds", "variance_x_time", "mse_x_time", "num_estimates", "error"]  # fmt: skip


@contextlib.contextmanager
def seeded_rng(seed: int) -> Iterator[None]:
    """Seed torch and NumPy, which a simulator may use, and restore their RNG states on exit."""
    with isolate_rng(include_cuda=torch.cuda.is_initialized()):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        yield


def measure(
    target: Target,
    estimators: Mapping[str, Any],
    num_estimates: int,
    reference: Any,
    *,
    description: str | None = None,
    reference_draws: int,
    timings: int,
    max_seconds: float | None,
    seed: int,
    progress: bool,
    unbiased: Mapping[str, bool] | None = None,
    title: str = "gradients",
) -> pd.DataFrame:
    """Measure the gradient of a target with several estimators, as in :func:`vaekit.gradient_report`.

    ``reference`` is an exact gradient, unbiased estimators or None, and ``description`` describes an exact one.
    ``unbiased`` is whether each estimator is unbiased in theory; by default :func:`is_unbiased`.
    """
    import pandas as pd

    if num_estimates < MIN_ESTIMATES:
        raise EstimatorError(
            f"gradient_report: num_estimates={num_estimates} must be at least {MIN_ESTIMATES}. Use 1000 for a reliable "
            "variance."
        )
    if not estimators:
        raise EstimatorError("gradient_report: estimators is empty. Pass at least one estimator.")
    estimators = {name: copy.deepcopy(estimator) for name, estimator in estimators.items()}
    has_estimated_reference = reference is not None and not isinstance(reference, Tensor)
    with _progress_bar(num_estimates * (len(estimators) + has_estimated_reference), title, progress) as bar:
        with seeded_rng(seed + 1):  # independent of the estimates that are compared with it
            gradient, description = _resolve_reference(
                target, reference, description, reference_draws, max_seconds, _advance(bar, num_estimates)
            )
        rows: dict[str, dict[str, Any]] = {}
        for name, estimator in estimators.items():
            bar.set_postfix_str(name, refresh=False)
            advance = _advance(bar, num_estimates)
            with seeded_rng(seed):
                try:
                    rows[name] = estimator_statistics(target, estimator, num_estimates, gradient, max_seconds, advance)
                except Exception as error:  # a custom cost or estimator may raise anything: the other rows are valid
                    rows[name] = {"error": explain(error)}
            advance(1)
    valid = {name: estimators[name] for name, row in rows.items() if "error" not in row}
    with seeded_rng(seed):
        times, errors = time_gradients(target, valid, timings, max_seconds)
    rows |= {name: {"error": explain(error)} for name, error in errors.items()}
    records = []
    for name, row in rows.items():
        # the conditions of the theory may not hold for a failed estimator, which may not even be one
        is_known = "error" not in row and (is_unbiased(estimators[name]) if unbiased is None else unbiased[name])
        milliseconds, variance = times.get(name, math.nan), row.get("variance", math.nan)
        squared_bias = row.pop("squared_bias", 0.0 if is_known else math.nan)
        records.append(
            {"estimator": name, "unbiased": is_known, **row, "milliseconds": milliseconds,
             "variance_x_time": variance * milliseconds, "mse_x_time": (variance + squared_bias) * milliseconds}
        )  # fmt: skip
    report = pd.DataFrame(records).reindex(columns=COLUMNS).fillna({"error": ""})
    report = report.astype({"evaluations": "Int64", "num_estimates": "Int64"})
    report.attrs = {
        "best_unbiased": _best(report[report.unbiased], "variance_x_time"),
        "best": _best(report, "mse_x_time"),
        "reference": description,
        "norm": math.nan if gradient is None else gradient.mean.norm().item(),
    }
    return report


def explain(error: Exception) -> str:
    """Return an error as one line, with its type unless it is an error of vaekit."""
    text = " ".join(str(error).split())
    return text if isinstance(error, VaekitError) else f"{type(error).__name__}: {text}"


def _resolve_reference(
    target: Target, reference: Any, description: str | None, num_estimates: int, max_seconds: float | None,
    advance: Callable[[float], None],
) -> tuple[Reference | None, str]:  # fmt: skip
    """Return the reference and its description."""
    if reference is None:
        return None, description or "none"
    if isinstance(reference, Tensor):
        gradient = Reference.exact(reference, description or "given")
    else:
        try:
            gradient = estimate_reference(target, reference, num_estimates, max_seconds, advance, description)
        except Exception as error:  # the estimators can be measured without a reference
            return None, f"none, because {label(reference)} failed: {explain(error)}"
    return gradient, gradient.description


def _progress_bar(total: int, title: str, progress: bool) -> Any:
    """Return a progress bar of estimates. Only a visible one imports the notebook widgets."""
    tqdm = importlib.import_module("tqdm.auto" if progress else "tqdm").tqdm
    interval = 0.2 if sys.stderr.isatty() or "ipykernel" in sys.modules else 10  # few lines in a log file
    return tqdm(
        total=total, desc=title, unit="estimate", mininterval=interval, dynamic_ncols=True, disable=not progress
    )


def _advance(bar: Any, size: int) -> Callable[[float], None]:
    """Return a function that sets the completed fraction of the next ``size`` units of a progress bar."""
    start = bar.n
    return lambda fraction: bar.update(start + int(fraction * size) - bar.n)


def _best(report: pd.DataFrame, column: str) -> str | None:
    """Return the label of the row with the smallest value; the fastest of several exact ones."""
    rows = report[report[column].notna()].sort_values([column, "milliseconds"])
    return None if rows.empty else str(rows.estimator.iloc[0])
