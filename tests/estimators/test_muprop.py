"""MuProp with a baseline: unbiased, with less variance if the cost at the mean is far from the mean cost.

False alarms: as in ``test_unbiased``, a case beyond |z| = 4 is judged again with four times as many new samples.
"""

from __future__ import annotations

import pytest
import torch
from strength import strengths
from torch import Tensor
from torch.distributions import Bernoulli, Independent

from vaekit import expectation
from vaekit.estimators import Enumerate, LeaveOneOut, MovingAverage, MuProp, SelfCritic
from vaekit.exceptions import EstimatorError

from .cases import Case, judge, uniform
from .conformance import DISCRETE, Row, learned
from .graphs import THREE, single
from .zscore import PRECISION, THRESHOLD

ROWS = [
    Row("muprop_moving", lambda: MuProp(baseline=MovingAverage()), DISCRETE, joint=False, stateful=True),
    Row("muprop_learned", lambda: MuProp(num_samples=2, baseline=learned()), DISCRETE, joint=False, stateful=True),
    Row("muprop_loo_3", lambda: MuProp(3, baseline=LeaveOneOut()), DISCRETE, joint=False),
]
CASES = [uniform(row, graph, "alone") for row in ROWS for graph in (*(single(kind) for kind in DISCRETE), THREE[0])]


@strengths
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_unbiased(case: Case, fraction: float) -> None:
    precision = PRECISION / fraction**0.5
    outcome = judge(case, precision, fraction=fraction)
    if outcome.z >= THRESHOLD:
        outcome = judge(case, precision / 2, attempt=1, fraction=fraction)
    assert outcome.z < THRESHOLD


def gradients(estimator: MuProp, steps: int) -> Tensor:
    """Return gradients ``[steps, 4]`` of a cost that differs by a constant from its first-order expansion."""
    logits = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    cost = lambda b: 10 * ((2 * b - 1) ** 2).sum(-1)  # noqa: E731
    actual = []
    for _ in range(steps):
        total = expectation(cost, Independent(Bernoulli(logits=logits), 1), estimator)
        actual.append(torch.autograd.grad(total.sum(), logits)[0])
    return torch.cat(actual)


@pytest.mark.parametrize("make", [MovingAverage, LeaveOneOut])
def test_a_baseline_subtracts_the_constant(make) -> None:
    """The cost is 40 at every value, and 0 with slope 0 at the mean: noise only, without a baseline."""
    torch.manual_seed(0)
    plain = gradients(MuProp(num_samples=2), 100)[20:].var(0)
    with_baseline = gradients(MuProp(num_samples=2, baseline=make()), 100)[20:].var(0)
    assert (with_baseline < 0.01 * plain).all()


def test_the_network_predicts_the_remaining_cost() -> None:
    torch.manual_seed(0)
    estimator = MuProp(baseline=learned())
    optimizer = torch.optim.Adam(estimator.parameters(), 0.02)
    logits, context = torch.zeros(200, dtype=torch.float64), torch.randn(200, 2, dtype=torch.float64)
    logits.requires_grad_()

    def mean_square() -> Tensor:
        cost = lambda b: context[:, 0] * (2 * b - 1) ** 2  # noqa: E731
        logits.grad = None
        optimizer.zero_grad()
        expectation(cost, Bernoulli(logits=logits), estimator, context=context).mean().backward()
        return logits.grad.square().mean()

    first = mean_square()
    for _ in range(300):
        last = mean_square()
        optimizer.step()
    assert last < 0.1 * first


def test_value_is_that_of_the_cost_and_eval_changes_nothing() -> None:
    estimator = MuProp(baseline=MovingAverage()).eval()
    before = {name: value.clone() for name, value in estimator.state_dict().items()}
    logits = torch.zeros(3, requires_grad=True)
    cost = lambda b: 4 + 0 * b  # noqa: E731
    torch.testing.assert_close(
        expectation(cost, Bernoulli(logits=logits), estimator), expectation(cost, Bernoulli(logits=logits), Enumerate())
    )
    assert all(torch.equal(value, before[name]) for name, value in estimator.state_dict().items())


def test_baselines_that_do_not_fit_are_rejected() -> None:
    with pytest.raises(EstimatorError, match="num_samples=1 must be at least 2, because LeaveOneOut compares samples"):
        MuProp(num_samples=1, baseline=LeaveOneOut())
    with pytest.raises(EstimatorError, match=r"MuProp: baseline=SelfCritic\(\) must not add auxiliary samples"):
        MuProp(baseline=SelfCritic())
    assert MuProp(baseline=LeaveOneOut()).num_samples == 2
