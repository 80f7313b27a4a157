"""Budget of the evaluations of the cost per observation, which multiply over the latents."""

from __future__ import annotations

import math
from collections.abc import Mapping

from vaekit.exceptions import ConfigError, EstimatorError
from vaekit.latents import Latent

MAX_EVALUATIONS = 4096  # of all latents together, if each has its own sample dimension


def check_evaluations(latents: Mapping[str, Latent], evaluations: Mapping[str, int]) -> None:
    """Check the number of evaluations of latents that have one sample dimension each.

    Parameters
    ----------
    latents : Mapping[str, Latent]
        Built latents by name.
    evaluations : Mapping[str, int]
        Number of evaluations of each: the states of an exact sum, or the samples.

    Raises
    ------
    ConfigError
        If their product exceeds 4096. The message names the latent to sample instead.
    EstimatorError
        If the product exceeds the budget of an estimator.
    """
    total = math.prod(evaluations.values())
    largest = max(evaluations, key=lambda name: (latents[name].estimator.lists_states, evaluations[name]))
    if latents[largest].estimator.lists_states:
        remedy = (
            f"Sample {largest!r} instead of listing its states ({evaluations[largest]} evaluations), for example with "
            "estimator=ScoreFunction(baseline=LeaveOneOut())."
        )
    else:
        remedy = f"Reduce num_samples of the estimators, such as the {evaluations[largest]} of {largest!r}."
    if total > MAX_EVALUATIONS:
        factors = " * ".join(f"{count} ({name!r})" for name, count in evaluations.items() if count > 1)
        raise ConfigError(
            f"latents {', '.join(map(repr, latents))} need {total} evaluations of the cost per observation, {factors}, "
            f"more than {MAX_EVALUATIONS}, because each has its own sample dimension. {remedy} Or draw joint samples, "
            "for example with objective ELBO(num_samples=4)."
        )
    for name, latent in latents.items():
        try:
            latent.estimator.check_budget(total, "the graph of all latents together")
        except EstimatorError as error:
            raise EstimatorError(f"latent {name!r}: {error} {remedy}") from None
