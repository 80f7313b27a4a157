"""What estimators over sets of states share: all states with their probabilities, sampling and picking from them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit.estimators.discrete_support import log_prob, num_states, states
from vaekit.estimators.estimator import Estimator, describe_distribution
from vaekit.estimators.noise import gumbel
from vaekit.exceptions import EstimatorError

MAX_STATES = 4096
_LOWEST = -1e30  # stands for log 0: finite, so that differences are not NaN, and far from float32's overflow


def count_states(estimator: Estimator, q: Distribution) -> int:
    """Return the number of states of ``q``; raise an error if they are too many to list."""
    count, name = num_states(q), type(estimator).__name__
    if count is None:
        raise EstimatorError(
            f"{name} cannot list the support of {describe_distribution(q)}: it is not finite; use ScoreFunction()"
        )
    if count > MAX_STATES:
        raise EstimatorError(
            f"{name}: {describe_distribution(q)} has {count} states, over the limit of {MAX_STATES}; use LocalExpectation(), which "
            "takes one variable at a time"
        )
    return count


def list_states(estimator: Estimator, q: Distribution, sample_shape: torch.Size | None) -> tuple[Tensor, Tensor]:
    """Return all states ``[states, *batch, *event]`` and their finite log-probabilities ``[states, *batch]``."""
    count_states(estimator, q)
    if sample_shape is not None:
        raise EstimatorError(f"{type(estimator).__name__} draws weighted sets of states, not joint trajectories")
    value = states(q)
    return value, log_prob(q, value).clamp_min(_LOWEST)


def select_states(value: Tensor, index: Tensor, q: Distribution) -> Tensor:
    """Return from ``[states, *batch, *event]`` the states at ``index``, ``[rows, *batch]``."""
    index = index.reshape(*index.shape, *[1] * len(q.event_shape))
    return value.gather(0, index.expand(*index.shape[: value.dim() - len(q.event_shape)], *q.event_shape))


def perturb(log_prob: Tensor) -> Tensor:
    """Return log-probabilities plus Gumbel noise: the largest are draws without replacement."""
    return log_prob + gumbel(log_prob)
