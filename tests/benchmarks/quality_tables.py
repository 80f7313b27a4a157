"""Scores of held-out cells, their paired differences, and both as tables: parts of ``scrna_quality.py``."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Result:
    """Scores of the test cells by one model and seed, in the order of the test split.

    Attributes
    ----------
    log_likelihood, elbo, ess
        Float64 ``[cells]``.
    refined
        Log-likelihood with a refined proposal, or None.
    about
        Variant, length and time of training.
    """

    model: str
    seed: int
    log_likelihood: Tensor
    elbo: Tensor
    ess: Tensor
    refined: Tensor | None = None
    about: dict[str, Any] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """Return the means over cells as plain numbers."""
        return {
            "model": self.model,
            "seed": self.seed,
            "cells": len(self.log_likelihood),
            "log_likelihood": self.log_likelihood.mean().item(),
            "elbo": self.elbo.mean().item(),
            "median_ess": self.ess.median().item(),
            "refined_log_likelihood": None if self.refined is None else self.refined.mean().item(),
            **self.about,
        }


def checked(result: Result) -> Result:
    """Report a result; warn if its log-likelihood is below its ELBO."""
    log_likelihood, elbo = result.log_likelihood.mean().item(), result.elbo.mean().item()
    refined = "" if result.refined is None else f", refined {result.refined.mean().item():.2f}"
    report(f"{result.model}, seed {result.seed}: test {log_likelihood:.2f}{refined}, ELBO {elbo:.2f}")
    if not log_likelihood >= elbo:
        report(f"WARNING: {result.model}: the log-likelihood is below its own lower bound")
    return result


def differences(results: list[Result]) -> Iterator[dict[str, Any]]:
    """Yield ours minus scVI over the test cells of each seed, and of all seeds."""
    models = list(dict.fromkeys(result.model for result in results))
    of = {(result.model, result.seed): result for result in results}
    seeds = sorted({result.seed for result in results})
    references = [(name, refined) for name in models if name.startswith("scVI") for refined in (False, True)]
    for model in models:
        for name, refined in references:
            if model.startswith("scVI") or (refined and of[name, seeds[0]].refined is None):
                continue
            gaps = [paired(of[model, seed], of[name, seed], refined) for seed in seeds]
            label = name + (" refined" if refined else "")
            for seed, gap in zip([*seeds, "pooled"], [*gaps, torch.cat(gaps)], strict=True):
                yield {"model": model, "reference": label, "seed": seed, **mean_and_error(gap)}


def paired(ours: Result, theirs: Result, refined: bool) -> Tensor:
    """Return the difference in log-likelihood, cell by cell."""
    return ours.log_likelihood - (theirs.refined if refined else theirs.log_likelihood)


def mean_and_error(gap: Tensor) -> dict[str, Any]:
    """Return the mean over cells and its standard error."""
    return {
        "cells": len(gap),
        "mean": gap.mean().item(),
        "standard_error": gap.std().item() / math.sqrt(len(gap)) if len(gap) > 1 else None,
    }


def print_tables(section: dict[str, Any]) -> None:
    """Print the scores, then the paired differences."""
    print(f"\n{section['data']}: held-out nats per cell, higher is better")
    print(f"{'model':<18}{'seed':>6}{'log p(x)':>11}{'ELBO':>11}{'ESS':>7}{'refined':>11}{'train s':>9}  trained as")
    for row in section["results"]:
        refined = row["refined_log_likelihood"]
        print(
            f"{row['model']:<18}{row['seed']:>6}{row['log_likelihood']:>11.2f}{row['elbo']:>11.2f}"
            f"{row['median_ess']:>7.1f}{'-' if refined is None else format(refined, '.2f'):>11}"
            f"{row['seconds']:>9.0f}  {row.get('variant', row.get('config'))}"
        )
    if section["differences"]:
        print("\npaired difference in log p(x) per cell, ours minus scVI, with its standard error over cells")
        print(f"{'model':<18}{'against':<20}{'seed':>7}{'cells':>7}{'mean':>9}{'s.e.':>8}")
    for row in section["differences"]:
        error = row["standard_error"]
        print(
            f"{row['model']:<18}{row['reference']:<20}{row['seed']:>7}{row['cells']:>7}{row['mean']:>9.2f}"
            f"{'-' if error is None else format(error, '.2f'):>8}"
        )


def report(line: str) -> None:
    """Print a line of progress."""
    print(line, file=sys.stderr, flush=True)
