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
    graph : Graph
        The graph.
    rows : dict
        Row of the conformance table for each node.
    num_samples : int or None
        Number of joint samples. None gives each node its own sample dimension.
    row : str
        Name of the tested row.
    position : str
        Position of the tested estimator in the graph.
    shared : str or None
        Node whose samples are shared by all entries of a batch.
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
    """Assign the row's estimator to all nodes that it supports, and a different one to the others."""
    other = {kind: BY_NAME["pathwise" if kind.startswith("normal") else "score_loo_2"] for kind in KINDS}
    rows = {n.name: row if n.kind in row.kinds else other[n.kind] for n in graph.nodes}
    return Case(graph, rows, num_samples, row.name, position if num_samples is None else "joint")


def cases() -> list[Case]:
    """Return each row alone, next to, below and above another node, in larger graphs, shared, joint; then mixtures."""
    actual = []
    for row in UNBIASED:
        partner = "categorical" if row.name.startswith("pathwise") else "normal"
        graphs = [(graph, "in threes") for graph in THREE] + [(graph, "in chain") for graph in CHAIN]
        for kind in row.kinds:
            actual += [uniform(row, single(kind), "alone"), uniform(row, independent(kind, partner), "beside")]
            graphs += [(below(kind, partner), "below"), (above(kind, partner), "above")]
        actual += [uniform(row, graph, position) for graph, position in graphs]
        for kind in row.kinds:  # one sample of the node for a batch of the others
            for graph in (independent(kind, partner), above(kind, partner)):
                actual.append(uniform(row, graph, "shared")._replace(shared="x"))
        if row.joint and row.name != "score_loo_4":  # equals score_loo_2 for joint samples
            actual += [uniform(row, graph, position, 3) for graph, position in graphs]
    for y, b, z in itertools.product(
        ("enumerate", "score_critic", "score_learned"),
        ("enumerate", "score_critic", "score_loo_4"),
        ("pathwise_2", "score_moving"),
    ):
        actual.append(Case(THREE[0], {"y": BY_NAME[y], "b": BY_NAME[b], "z": BY_NAME[z]}))
    return actual


class Outcome(NamedTuple):
    """Distance of an estimate from the exact value and gradient.

    Attributes
    ----------
    z : float
        Largest z-score over the components.
    error : float
        Largest standard error, relative to the norm of the exact gradient of the component's node.
    replicates : int
        Number of replicates.
    """

    z: float
    error: float
    replicates: int


def judge(case: Case, precision: float, attempt: int = 0, limit: int = LIMIT, fraction: float = 1.0) -> Outcome:
    """Compare with the exact gradient, to a ``precision`` relative to its norm; each attempt has its own seed.

    At most ``limit`` replicates are computed, rounded up to whole chunks.
    """
    torch.manual_seed(zlib.crc32(f"{case.id}{attempt or ''}".encode()))
    value, by_name = oracle(case.graph) if case.shared is None else oracle_over_a_batch(case.graph)
    gradient = torch.cat([g.flatten() for g in by_name.values()])
    norms = blocks(case.graph, by_name)
    estimators = {name: row.make() for name, row in case.rows.items()}
    if any(row.stateful for row in case.rows.values()):
        warm_up(case.graph, estimators, case.num_samples)
    actual = measure(case.graph, estimators, precision * norms, case.num_samples, limit, case.shared, fraction)
    floor = 1e-7 * norms  # the error of quadrature, for estimators without variance
    of_gradient = ((actual.gradient - gradient).abs() / (actual.error + floor)).max()
    of_value = (actual.value - value).abs() / (actual.value_error + 1e-7)
    return Outcome(max(of_gradient.item(), of_value.item()), (actual.error / norms).max().item(), actual.count)
