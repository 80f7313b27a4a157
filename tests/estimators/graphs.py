"""Small stochastic graphs over six kinds of node, with every parameter a leaf that a test can differentiate.

A node's location is ``location + sum_p link[p] * summary(parent p)`` in a fixed pattern over its variables. The
summary is a fixed linear function of a value. All functions accept values with any leading dimensions, so that the
estimators (sample and batch dimensions) and the oracle (one dimension of grid points) share the definition.
"""

from __future__ import annotations

import math
import zlib
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Independent, Normal, OneHotCategorical

from vaekit.graph.dependencies import NodeFunction

_F64 = torch.float64
SUMMARY = {
    "normal": torch.tensor(0.8, dtype=_F64),
    "bernoulli": torch.tensor(1.0, dtype=_F64),
    "categorical": torch.tensor([-0.8, 0.3, 1.0], dtype=_F64),
    "normal_vector": torch.tensor([0.7, -0.5], dtype=_F64),
    "bernoulli_vector": torch.tensor([1.1, -0.8], dtype=_F64),
    "categorical_vector": torch.tensor([[-0.8, 0.3, 1.0], [0.6, -0.9, 0.2]], dtype=_F64),
}
PATTERN = {kind: torch.cos(2.0 * torch.arange(c.numel(), dtype=_F64)).reshape(c.shape) for kind, c in SUMMARY.items()}

# A batch of three entries that share a node: the increments of the cost's offset, and the weights in the loss.
SHIFTS = torch.tensor([-0.7, 0.2, 1.0], dtype=_F64)
ENTRIES = torch.tensor([1.0, 0.3, 0.6], dtype=_F64)


class Node(NamedTuple):
    """A node: its name, its kind (a key of ``SUMMARY``), its parents."""

    name: str
    kind: str
    parents: tuple[str, ...] = ()


class Graph(NamedTuple):
    """Nodes in declared order, in which children may precede their parents."""

    name: str
    nodes: tuple[Node, ...]

    @property
    def sorted(self) -> list[Node]:
        """The nodes, parents first."""
        done: list[Node] = []
        while len(done) < len(self.nodes):
            names = {node.name for node in done}
            done.append(next(n for n in self.nodes if n.name not in names and names.issuperset(n.parents)))
        return done

    def parameters(self) -> dict[str, Tensor]:
        """Return ``{"<node>.<parameter>": tensor}`` and ``cost.offset``."""
        parameters = {"cost.offset": torch.tensor(-1.0, dtype=_F64)}
        for node in self.nodes:
            shape = SUMMARY[node.kind].shape
            generator = torch.Generator().manual_seed(zlib.crc32(f"{node.name}{node.kind}".encode()))
            parameters[f"{node.name}.location"] = torch.randn(shape, generator=generator, dtype=_F64) * 0.5
            if node.kind.startswith("normal"):
                parameters[f"{node.name}.log_scale"] = torch.full(shape, math.log(0.6), dtype=_F64)
            if node.parents:
                parameters[f"{node.name}.link"] = torch.full((len(node.parents),), 0.9, dtype=_F64)
        return parameters


def summary(kind: str, value: Tensor) -> Tensor:
    """Return a scalar of a value, ``[*samples, *event] -> [*samples]``."""
    coefficient = SUMMARY[kind].to(value.dtype)
    product = coefficient * value
    return product.sum(tuple(range(-coefficient.dim(), 0))) if coefficient.dim() else product


def location(graph: Graph, node: Node, parameters: dict[str, Tensor], values: dict[str, Tensor]) -> Tensor:
    """Return the location (mean or logits) of a node given its parents, ``[*samples, *event]``."""
    result = parameters[f"{node.name}.location"]
    kinds = {n.name: n.kind for n in graph.nodes}
    pattern = PATTERN[node.kind].to(result.dtype)
    for i, parent in enumerate(node.parents):
        pull = parameters[f"{node.name}.link"][..., i] * summary(kinds[parent], values[parent])
        result = result + pull[(...,) + (None,) * pattern.dim()] * pattern
    return result


def cost(graph: Graph, parameters: dict[str, Tensor], values: dict[str, Tensor]) -> Tensor:
    """Return a cost in which all nodes and variables interact, ``[*samples]``."""
    t = sum(summary(node.kind, values[node.name]) for node in graph.nodes)
    return 0.5 * (t - parameters["cost.offset"]).square() + 0.5 * torch.sin(2 * t)


def distribution(graph: Graph, node: Node, parameters: dict[str, Tensor], values: dict[str, Tensor]) -> Distribution:
    """Return torch's distribution of a node given its parents."""
    at = location(graph, node, parameters, values)
    if node.kind.startswith("normal"):
        q = Normal(at, parameters[f"{node.name}.log_scale"].exp(), validate_args=False)
    elif node.kind.startswith("bernoulli"):
        q = Bernoulli(logits=at, validate_args=False)
    else:
        q = OneHotCategorical(logits=at, validate_args=False)
    return Independent(q, 1, validate_args=False) if node.kind.endswith("vector") else q


def as_expectation(
    graph: Graph, parameters: dict[str, Tensor]
) -> tuple[NodeFunction, dict[str, Distribution | NodeFunction]]:
    """Return the cost and the nodes, as arguments of ``vaekit.expectation``."""
    q: dict[str, Distribution | NodeFunction] = {}
    for node in graph.nodes:
        if node.parents:
            q[node.name] = NodeFunction(
                lambda node=node, **values: distribution(graph, node, parameters, values), node.parents
            )
        else:
            q[node.name] = distribution(graph, node, parameters, {})
    return NodeFunction(lambda **values: cost(graph, parameters, values), tuple(n.name for n in graph.nodes)), q


def shared_over(graph: Graph, shared: str, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return parameters ``[..., *shape]`` for a batch ``[..., 3]`` whose entries share the samples of one node.

    The parameters of that node are ``[..., 1, *shape]``. The entries of the batch differ in the cost's offset.
    """
    result = {}
    for name, own in graph.parameters().items():
        rank = parameters[name].dim() - own.dim()
        value = parameters[name].unsqueeze(rank)
        alone = name.split(".")[0] == shared
        result[name] = value if alone else value.expand(*value.shape[:rank], len(SHIFTS), *own.shape)
    result["cost.offset"] = result["cost.offset"] + SHIFTS
    return result


def single(kind: str) -> Graph:
    """Return one node."""
    return Graph(f"{kind}", (Node("x", kind),))


def independent(kind: str, other: str) -> Graph:
    """Return two nodes without an edge."""
    return Graph(f"{other},{kind}", (Node("w", other), Node("x", kind)))


def below(kind: str, other: str) -> Graph:
    """Return ``other -> kind``, declared child first."""
    return Graph(f"{other}->{kind}", (Node("x", kind, ("w",)), Node("w", other)))


def above(kind: str, other: str) -> Graph:
    """Return ``kind -> other``."""
    return Graph(f"{kind}->{other}", (Node("x", kind), Node("w", other, ("x",))))


THREE = (
    Graph(
        "cat->bern->gauss",
        (Node("z", "normal", ("y", "b")), Node("y", "categorical"), Node("b", "bernoulli", ("y",))),
    ),
    Graph(
        "gauss->bern->cat",
        (Node("z", "normal"), Node("b", "bernoulli", ("z",)), Node("y", "categorical", ("b", "z"))),
    ),
    Graph(
        "cats->gaussians,berns",
        (
            Node("y", "categorical_vector"),
            Node("z", "normal_vector", ("y",)),
            Node("b", "bernoulli_vector", ("y",)),
        ),
    ),
)
CHAIN = (
    Graph(
        "cat->bern->gauss->cat",
        (
            Node("v", "categorical", ("w",)),
            Node("w", "normal", ("b",)),
            Node("b", "bernoulli", ("y",)),
            Node("y", "categorical"),
        ),
    ),
)
