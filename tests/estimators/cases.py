"""The cases of the conformance table: each unbiased estimator on each kind of node, in each position of a graph."""

from __future__ import annotations

import functools
import itertools
import zlib
from typing import NamedTuple

import torch

from .conformance import KINDS, TABLE, UNBIASED, Row
from .graphs import CHAIN, THREE, Graph, above, below, independent, single
from .oracle import exact, exact_over_a_batch
from .zscore import LIMIT, blocks, measure, warm_up

BY_NAME = {row.name: row for row in TABLE}
oracle = functools.cache(exact)
oracle_over_a_batch = functools.cache(exact_over_a_batch)


class Case(NamedTuple):
    """A graph with estimators on its nodes.

    Attributes
    ----------
    graph
        The graph.
    rows
        A row of the conformance table for each node.
    num_samples
        Joint trajectories, or None.
    row
        Name of the row that the case is about.
    position
        Where that row's estimator stands.
    shared
        The node whose draws all entries of a batch share, or None.
    """

    graph: Graph
    rows: dict[str, Row]
    num_samples: int | None = None
    row: str = "mixture"
    position: str = "in threes"
    shared: str | None = None

    @property
    def id(self) -> str:
        names = ",".join(dict.fromkeys(row.name for row in self.rows.values()))
        mode = "nested" if self.num_samples is None else "joint"
        return f"{names}-{self.graph.name}-{mode}" + ("-shared" if self.shared else "")


def uniform(row: Row, graph: Graph, position: str, num_samples: int | None = None) -> Case:
    """Put the row's estimator on all nodes that it fits, on the others what differs from it."""
    other = {kind: BY_NAME["pathwise" if kind.startswith("normal") else "score_loo_2"] for kind in KINDS}
    rows = {n.name: row if n.kind in row.kinds else other[n.kind] for n in graph.nodes}
    return Case(graph, rows, num_samples, row.name, position if num_samples is None else "joint")


def cases() -> list[Case]:
    """Each row alone; beside, below and above another node; in threes, in a chain; shared; joint. Then mixtures."""
    found = []
    for row in UNBIASED:
        partner = "categorical" if row.name.startswith("pathwise") else "normal"
        graphs = [(graph, "in threes") for graph in THREE] + [(graph, "in chain") for graph in CHAIN]
        for kind in row.kinds:
            found += [uniform(row, single(kind), "alone"), uniform(row, independent(kind, partner), "beside")]
            graphs += [(below(kind, partner), "below"), (above(kind, partner), "above")]
        found += [uniform(row, graph, position) for graph, position in graphs]
        for kind in row.kinds:  # one draw of the node for a batch of the others
            for graph in (independent(kind, partner), above(kind, partner)):
                found.append(uniform(row, graph, "shared")._replace(shared="x"))
        if row.joint and row.name != "score_loo_4":  # in joint trajectories it is score_loo_2
            found += [uniform(row, graph, position, 3) for graph, position in graphs]
    for y, b, z in itertools.product(
        ("enumerate", "score_critic", "score_learned"),
        ("enumerate", "score_critic", "score_loo_4"),
        ("pathwise_2", "score_moving"),
    ):
        found.append(Case(THREE[0], {"y": BY_NAME[y], "b": BY_NAME[b], "z": BY_NAME[z]}))
    return found


class Outcome(NamedTuple):
    """How far an estimate is from the exact value and gradient.

    Attributes
    ----------
    z
        Largest score over the components.
    error
        Largest standard error, as a share of the exact gradient's norm (of the node that the component belongs to).
    replicates
        Draws that the means are taken over.
    """

    z: float
    error: float
    replicates: int


def judge(case: Case, precision: float, attempt: int = 0, limit: int = LIMIT, fraction: float = 1.0) -> Outcome:
    """Compare with the exact gradient, to a ``precision`` as a share of its norm; each attempt has its own seed.

    Takes at most ``limit`` replicates (or one chunk of them more).
    """
    torch.manual_seed(zlib.crc32(f"{case.id}{attempt or ''}".encode()))
    value, by_name = oracle(case.graph) if case.shared is None else oracle_over_a_batch(case.graph)
    gradient = torch.cat([g.flatten() for g in by_name.values()])
    norms = blocks(case.graph, by_name)
    estimators = {name: row.make() for name, row in case.rows.items()}
    if any(row.stateful for row in case.rows.values()):
        warm_up(case.graph, estimators, case.num_samples)
    found = measure(case.graph, estimators, precision * norms, case.num_samples, limit, case.shared, fraction)
    floor = 1e-7 * norms  # quadrature's own error, where an estimator has no variance
    of_gradient = ((found.gradient - gradient).abs() / (found.error + floor)).max()
    of_value = (found.value - value).abs() / (found.value_error + 1e-7)
    return Outcome(max(of_gradient.item(), of_value.item()), (found.error / norms).max().item(), found.count)
