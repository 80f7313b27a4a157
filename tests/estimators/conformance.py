"""The conformance table of the property tests, with every estimator. A new estimator is one new row."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from vaekit.estimators import (
    ARM,
    REBAR,
    RELAX,
    Critic,
    DisARM,
    Enumerate,
    Estimator,
    GumbelRao,
    GumbelSoftmax,
    LearnedBaseline,
    LeaveOneOut,
    LocalExpectation,
    MeasureValued,
    MovingAverage,
    MuProp,
    Pathwise,
    RaoBlackwell,
    ReinMax,
    ScoreFunction,
    SelfCritic,
    StraightThrough,
    TemperatureSchedule,
    UnorderedSet,
)

CONTINUOUS = ("normal", "normal_vector")
DISCRETE = ("bernoulli", "categorical", "bernoulli_vector", "categorical_vector")
BINARY = ("bernoulli", "bernoulli_vector")
KINDS = (*CONTINUOUS, *DISCRETE)
CONTEXT_FEATURES = 2


class Row(NamedTuple):
    """One estimator.

    Attributes
    ----------
    name : str
        Name in test identifiers.
    make : callable
        Constructor of a new estimator, in float64.
    kinds : tuple of str
        Supported kinds of node (see ``graphs``).
    unbiased : bool
        Whether its gradient is unbiased for every cost that it accepts.
    joint : bool
        Whether it supports joint samples.
    stateful : bool
        Whether it learns from earlier costs. It is then tested after a few small calls.
    graph_break : str
        Message of torch.compile if a step with this estimator does not compile in one graph; else empty.
    """

    name: str
    make: Callable[[], Estimator]
    kinds: tuple[str, ...]
    unbiased: bool = True
    joint: bool = True
    stateful: bool = False
    graph_break: str = ""


def learned() -> LearnedBaseline:
    """Create a learned baseline with a small network."""
    network = nn.Sequential(nn.Linear(CONTEXT_FEATURES, 4), nn.Tanh(), nn.Linear(4, 1))
    return LearnedBaseline(network.to(torch.float64))


class Control(nn.Module):
    """A control variate for any size of node, in float64: a weighted sum of one tanh per input."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-0.4, 0.5, 12, dtype=torch.float64))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return ``[...]`` from ``[..., size]``."""
        return (self.weight[: inputs.shape[-1]] * torch.tanh(0.5 * inputs + 0.2)).sum(-1)


# torch.compile does not support estimators that differentiate the cost within the step.
INNER = "autograd.grad"

TABLE = [
    Row("pathwise", Pathwise, CONTINUOUS),
    Row("pathwise_2", lambda: Pathwise(num_samples=2), CONTINUOUS),
    Row("pathwise_stl", lambda: Pathwise(stick_the_landing=True), CONTINUOUS),
    Row("score", ScoreFunction, KINDS),
    Row("score_moving", lambda: ScoreFunction(baseline=MovingAverage()), KINDS, stateful=True),
    Row("score_loo_2", lambda: ScoreFunction(baseline=LeaveOneOut()), KINDS),
    Row("score_loo_4", lambda: ScoreFunction(num_samples=4, baseline=LeaveOneOut()), KINDS),
    Row("score_learned", lambda: ScoreFunction(baseline=learned()), KINDS, stateful=True),
    Row("score_critic", lambda: ScoreFunction(baseline=SelfCritic()), KINDS, joint=False),
    Row("rebar", REBAR, DISCRETE, joint=False, graph_break=INNER),
    Row(
        "rebar_2",
        lambda: REBAR(1.5, scale=0.7, learnable=False, num_samples=2),
        DISCRETE,
        joint=False,
        graph_break=INNER,
    ),
    Row("relax", lambda: RELAX(Control()), DISCRETE, joint=False, stateful=True, graph_break=INNER),
    Row(
        "relax_black_box",
        lambda: RELAX(Control(), temperature=None),
        DISCRETE,
        joint=False,
        stateful=True,
        graph_break=INNER,
    ),
    Row("muprop", MuProp, DISCRETE, joint=False, graph_break=INNER),
    Row("muprop_3", lambda: MuProp(num_samples=3), DISCRETE, joint=False, graph_break=INNER),
    Row("enumerate", Enumerate, DISCRETE, joint=False),
    Row("gumbel_soft", GumbelSoftmax, DISCRETE, unbiased=False),
    Row("gumbel_hard", lambda: GumbelSoftmax(hard=True), DISCRETE, unbiased=False),
    Row("straight_through", StraightThrough, DISCRETE, unbiased=False),
    Row("rao_blackwell", RaoBlackwell, DISCRETE, joint=False),
    Row("rao_blackwell_2_3", lambda: RaoBlackwell(num_exact=2, num_samples=3), DISCRETE, joint=False),
    Row("unordered_set", UnorderedSet, DISCRETE, joint=False),
    Row("unordered_set_3", lambda: UnorderedSet(num_samples=3), DISCRETE, joint=False),
    Row("measure_valued", MeasureValued, KINDS, joint=False),
    Row("measure_valued_2", lambda: MeasureValued(num_samples=2), KINDS, joint=False),
    Row("arm", ARM, BINARY, joint=False),
    Row("arm_3", lambda: ARM(num_samples=3), BINARY, joint=False),
    Row("disarm", DisARM, DISCRETE, joint=False),
    Row("disarm_2", lambda: DisARM(num_pairs=2), DISCRETE, joint=False),
    Row("local_expectation", LocalExpectation, DISCRETE, joint=False),
    Row("local_expectation_2", lambda: LocalExpectation(num_samples=2), DISCRETE, joint=False),
    Row("reinmax", ReinMax, DISCRETE, unbiased=False),
    Row("reinmax_warm", lambda: ReinMax(temperature=1.5, num_samples=2), DISCRETE, unbiased=False),
    Row("gumbel_rao", GumbelRao, DISCRETE, unbiased=False),
    Row("gumbel_rao_cold", lambda: GumbelRao(0.1, num_inner=3, num_samples=2), DISCRETE, unbiased=False),
]
UNBIASED = [row for row in TABLE if row.unbiased]

# Rows for parts of estimators that the table above does not contain.
PARTS = [
    Row("score_with_critic", lambda: ScoreFunction(critic=Critic(Control())), KINDS, stateful=True),
    Row("gumbel_annealed", lambda: GumbelSoftmax(TemperatureSchedule()), DISCRETE, unbiased=False),
]
