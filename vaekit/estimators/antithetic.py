"""What the estimators from antithetic pairs of discrete values share."""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Distribution

from vaekit.estimators.discrete_support import unwrap_independent


def antithetic(logits: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Return Bernoulli values, as booleans, from uniform variables in [0, 1) and from their mirror images.

    Each member of a pair has the Bernoulli distribution; the two differ as often as any such pair can.
    """
    return uniform >= (-logits).sigmoid(), uniform < logits.sigmoid()


def sum_variables(score: Tensor, q: Distribution) -> Tensor:
    """Sum ``[rows, *batch, *variables]`` over the variables that ``Independent`` declares to be one event."""
    declared = unwrap_independent(q)[1]
    return score.flatten(-declared).sum(-1) if declared else score
