"""Every unbiased estimator, on every kind of node, in every position of a graph, against exact gradients.

False alarms: |z| < 4 fails a correct estimator with probability 2 (1 - Phi(4)) = 6.3e-5 a component. The
table below has at most COMPONENTS of them, values included: were all seeds redrawn, a correct library would
fail somewhere with a probability of at most RATE = COMPONENTS * 6.3e-5. Seeds are fixed: a run is repeatable.
"""

from __future__ import annotations

import functools
import itertools
import zlib
from typing import NamedTuple

import pytest
import torch
from scipy.stats import norm

from .conformance import KINDS, TABLE, UNBIASED, Row
from .graphs import THREE, Graph, above, below, independent, single
from .oracle import POINTS, exact
from .zscore import PRECISION, THRESHOLD, blocks, measure, warm_up

COMPONENTS = 2500
RATE = 0.16
BY_NAME = {row.name: row for row in TABLE}


class Case(NamedTuple):
    graph: Graph
    rows: dict[str, Row]
    num_samples: int | None = None

    @property
    def id(self) -> str:
        names = ",".join(dict.fromkeys(row.name for row in self.rows.values()))
        return f"{names}-{self.graph.name}-{'nested' if self.num_samples is None else 'joint'}"


def uniform(row: Row, graph: Graph, num_samples: int | None = None) -> Case:
    """Put the row's estimator on all nodes that it fits, on the others what differs from it."""
    other = {kind: BY_NAME["pathwise" if kind.startswith("normal") else "score_loo_2"] for kind in KINDS}
    return Case(graph, {n.name: row if n.kind in row.kinds else other[n.kind] for n in graph.nodes}, num_samples)


def cases() -> list[Case]:
    """Each row alone; beside, below and above another node; in threes; nested and joint. Then mixtures."""
    found = []
    for row in UNBIASED:
        partner = "categorical" if row.name.startswith("pathwise") else "normal"
        graphs = list(THREE)
        for kind in row.kinds:
            found += [uniform(row, single(kind)), uniform(row, independent(kind, partner))]
            graphs += [below(kind, partner), above(kind, partner)]
        found += [uniform(row, graph) for graph in graphs]
        if row.joint and row.name != "score_loo_4":  # in joint trajectories it is score_loo_2
            found += [uniform(row, graph, 3) for graph in graphs]
    for y, b, z in itertools.product(
        ("enumerate", "score_critic", "score_learned"),
        ("enumerate", "score_critic", "score_loo_4"),
        ("pathwise_2", "score_moving"),
    ):
        found.append(Case(THREE[0], {"y": BY_NAME[y], "b": BY_NAME[b], "z": BY_NAME[z]}))
    return found


CASES = cases()
oracle = functools.cache(exact)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_gradient_and_value_agree_with_the_exact_ones(case: Case) -> None:
    torch.manual_seed(zlib.crc32(case.id.encode()))
    value, by_name = oracle(case.graph)
    gradient = torch.cat([g.flatten() for g in by_name.values()])
    norms = blocks(case.graph, by_name)
    estimators = {name: row.make() for name, row in case.rows.items()}
    if any(row.stateful for row in case.rows.values()):
        warm_up(case.graph, estimators, case.num_samples)
    found = measure(case.graph, estimators, PRECISION * norms, case.num_samples)
    assert (found.error <= PRECISION * norms).all(), f"{found.count} replicates are too few"
    floor = 1e-7 * norms  # quadrature's own error, where an estimator has no variance
    assert ((found.gradient - gradient).abs() / (found.error + floor)).max() < THRESHOLD
    assert (found.value - value).abs() / (found.value_error + 1e-7) < THRESHOLD


@pytest.mark.parametrize("graph", {case.graph.name: case.graph for case in CASES}.values(), ids=lambda g: g.name)
def test_quadrature_has_converged(graph: Graph) -> None:
    value, gradient = oracle(graph)
    finer_value, finer = exact(graph, POINTS + 8)
    torch.testing.assert_close(value, finer_value, rtol=0, atol=1e-6)
    torch.testing.assert_close(gradient, finer, rtol=0, atol=1e-6)


def test_false_alarm_rate_is_the_one_stated() -> None:
    count = sum(1 + sum(p.numel() for p in case.graph.parameters().values()) for case in CASES)
    assert count <= COMPONENTS
    assert count * 2 * norm.sf(THRESHOLD) <= RATE
