"""Every unbiased estimator, on every kind of node, in every position of a graph, against exact gradients.

False alarms: |z| < 4 fails a correct estimator with probability 2 (1 - Phi(4)) = 6.3e-5 per component. The table has at
most COMPONENTS of them, values included, and a case at most WIDEST. With random seeds, some case of a correct library
would exceed 4 about every other time. Such a case is therefore judged a second time, by four times as many new samples
only. A correct library then fails with a probability of at most RATE = COMPONENTS * 6.3e-5 * WIDEST * 6.3e-5 at each
strength. Seeds are fixed, so that a run is repeatable.
"""

from __future__ import annotations

import pytest
import torch
from scipy.stats import norm
from strength import strengths

from .cases import Case, cases, judge, oracle
from .graphs import Graph
from .oracle import POINTS, exact
from .zscore import PRECISION, THRESHOLD

COMPONENTS, WIDEST, RATE = 8000, 20, 1e-3
CASES = cases()


@strengths
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_gradient_and_value_agree_with_the_exact_ones(case: Case, fraction: float) -> None:
    precision = PRECISION / fraction**0.5
    outcome = judge(case, precision, fraction=fraction)
    assert outcome.error <= precision, f"{outcome.replicates} replicates are too few"
    if outcome.z >= THRESHOLD:
        outcome = judge(case, precision / 2, attempt=1, fraction=fraction)
    assert outcome.z < THRESHOLD


@pytest.mark.parametrize("graph", {case.graph.name: case.graph for case in CASES}.values(), ids=lambda g: g.name)
def test_quadrature_has_converged(graph: Graph) -> None:
    value, gradient = oracle(graph)
    finer_value, finer = exact(graph, POINTS + 8)
    torch.testing.assert_close(value, finer_value, rtol=0, atol=1e-6)
    torch.testing.assert_close(gradient, finer, rtol=0, atol=1e-6)


def test_false_alarm_rate_is_the_one_stated() -> None:
    counts = [1 + sum(p.numel() for p in case.graph.parameters().values()) for case in CASES]
    alarm = 2 * norm.sf(THRESHOLD)
    assert sum(counts) <= COMPONENTS
    assert max(counts) <= WIDEST
    assert COMPONENTS * alarm * WIDEST * alarm <= RATE
