"""Activity: the one definition of an active dimension and of a code in use."""

from __future__ import annotations

import torch
from torch import Tensor

ACTIVE_VARIANCE = 0.01  # threshold of Burda et al. (2016)
ACTIVE_PROBABILITY = 0.01  # of the mean probability of a state, and of the fraction of its variance that x explains


def sum_moments(values: Tensor) -> Tensor:
    """Return the number of observations, the sum and the sum of squares of each entry, float64 ``[3, ...]``."""
    values = values.double()
    return torch.stack([torch.ones_like(values), values, values.square()]).sum(1)


def dimension_activity(moments: Tensor) -> Tensor:
    """Return the variance over the data of the posterior mean of each dimension, from :func:`sum_moments`."""
    count, total, squares = moments
    return (squares / count - (total / count).square()).clamp_min(0)


def state_activity(moments: Tensor) -> Tensor:
    """Return the activity ``[variables, states]`` of the states of each variable.

    It is the mean probability m, or the fraction of its variance m (1 - m) that the data explain if this is less. It
    never exceeds the second-highest activity of the variable: a variable that always has the same state, or the same
    probabilities for all observations, carries no information.
    """
    mean = moments[1] / moments[0]
    explained = dimension_activity(moments) / (mean * (1 - mean)).clamp_min(torch.finfo(mean.dtype).tiny)
    activity = torch.minimum(mean, explained)
    return activity.minimum(activity.topk(min(2, activity.shape[-1])).values[..., -1:])
