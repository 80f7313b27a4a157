"""Every unbiased estimator, on every kind of node, in every position of a graph, against exact gradients.

False alarms: |z| < 4 fails a correct estimator with probability 2 (1 - Phi(4)) = 6.3e-5 a component. The table below
has at most COMPONENTS of them, values included, and a case at most WIDEST: were all seeds redrawn, some case of a
correct library would go beyond 4 about every other time. So a case that does is judged anew, by other draws and four
times as many, and by these alone: a correct library fails with a probability of at most RATE = COMPONENTS * 6.3e-5 *
WIDEST * 6.3e-5. Seeds are fixed: a run is repeatable.
"""

from __future__ import annotations

import pytest
import torch
from scipy.stats import norm

from .cases import Case, cases, judge, oracle
from .graphs import Graph
from .oracle import POINTS, exact
from .zscore import PRECISION, THRESHOLD

COMPONENTS, WIDEST, RATE = 8000, 20, 1e-3
CASES = cases()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_gradient_and_value_agree_with_the_exact_ones(case: Case) -> None:
    found = judge(case, PRECISION)
    assert found.error <= PRECISION, f"{found.replicates} replicates are too few"
    if found.z >= THRESHOLD:
        found = judge(case, PRECISION / 2, attempt=1)
    assert found.z < THRESHOLD


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
