"""The conformance table: every estimator, as the property tests see it. A new estimator is one new row."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from vaekit.estimators import (
    Enumerate,
    Estimator,
    GumbelSoftmax,
    Learned,
    LeaveOneOut,
    MovingAverage,
    Pathwise,
    ScoreFunction,
    SelfCritic,
    StraightThrough,
)

CONTINUOUS = ("normal", "normal_vector")
DISCRETE = ("bernoulli", "categorical", "bernoulli_vector", "categorical_vector")
KINDS = (*CONTINUOUS, *DISCRETE)
CONTEXT_FEATURES = 2


class Row(NamedTuple):
    """One estimator.

    Attributes
    ----------
    name
        Identifies it in test names.
    make
        Makes a fresh one, in float64.
    kinds
        Kinds of node (see ``graphs``) that it fits.
    unbiased
        Whether its gradient is unbiased for every cost that it accepts.
    joint
        Whether it can serve a node on an axis of joint trajectories.
    stateful
        Whether it learns from earlier costs: tested after a few small calls.
    """

    name: str
    make: Callable[[], Estimator]
    kinds: tuple[str, ...]
    unbiased: bool = True
    joint: bool = True
    stateful: bool = False


def learned() -> Learned:
    """Make a learned baseline on a small network."""
    network = nn.Sequential(nn.Linear(CONTEXT_FEATURES, 4), nn.Tanh(), nn.Linear(4, 1))
    return Learned(network.to(torch.float64))


TABLE = [
    Row("pathwise", Pathwise, CONTINUOUS),
    Row("pathwise_2", lambda: Pathwise(num_samples=2), CONTINUOUS),
    Row("score", ScoreFunction, KINDS),
    Row("score_moving", lambda: ScoreFunction(baseline=MovingAverage()), KINDS, stateful=True),
    Row("score_loo_2", lambda: ScoreFunction(baseline=LeaveOneOut()), KINDS),
    Row("score_loo_4", lambda: ScoreFunction(num_samples=4, baseline=LeaveOneOut()), KINDS),
    Row("score_learned", lambda: ScoreFunction(baseline=learned()), KINDS, stateful=True),
    Row("score_critic", lambda: ScoreFunction(baseline=SelfCritic()), KINDS, joint=False),
    Row("enumerate", Enumerate, DISCRETE, joint=False),
    Row("gumbel_soft", GumbelSoftmax, DISCRETE, unbiased=False),
    Row("gumbel_hard", lambda: GumbelSoftmax(hard=True), DISCRETE, unbiased=False),
    Row("straight_through", StraightThrough, DISCRETE, unbiased=False),
]
UNBIASED = [row for row in TABLE if row.unbiased]
