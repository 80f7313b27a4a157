"""Which cost each node is credited with, while a fold averages the nodes away, deepest first.

Rao-Blackwellization by graph structure: a node is credited with the terms that it can influence, and no others. With
critics this becomes the lambda-return: terms that a later node can influence too are replaced by
``(1 - lam) V + lam G`` of that node, its critic's prediction and its own lambda-return.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vaekit.estimators.estimator import NodeSample
from vaekit.graph.dependencies import Node


class CreditAssignment:
    """The values of the cost terms, averaged over the nodes that were visited.

    Parameters
    ----------
    nodes
        Parents first.
    values
        Of each term, ``[S_n, ..., S_1, *batch]``, size 1 where an axis is absent.
    names
        Nodes that each term depends on directly.

    Attributes
    ----------
    mean
        ``[*rows of nodes not visited yet, *batch]`` of each term, without a gradient.
    terms
        Those that each node can influence.
    """

    def __init__(self, nodes: Sequence[Node], values: Mapping[str, Tensor], names: Mapping[str, Sequence[str]]) -> None:
        self.mean = {term: value.detach() for term, value in values.items()}
        self._ancestors = {node.name: node.ancestors for node in nodes}
        influence = {term: frozenset().union(*(self._ancestors[n] for n in names[term])) for term in values}
        self.terms = {node.name: [term for term in values if node.name in influence[term]] for node in nodes}
        self._foreseen: dict[str, Tensor] = {}  # of visited nodes with a critic, deepest first

    def cost_to_go(self, node: str) -> Tensor:
        """Return the sum of the terms that a node can influence, as they were drawn."""
        return sum((self.mean[term] for term in self.terms[node][1:]), start=self.mean[self.terms[node][0]])

    def lambda_return(self, node: str) -> Tensor:
        """Return the cost-to-go of a node, with the critic returns of its descendants for the terms that they cover.

        The closest descendants come first; one whose terms another covers in part is passed over.
        """
        rest, parts = set(self.terms[node]), []
        for later in reversed(self._foreseen):
            if node in self._ancestors[later] and rest.issuperset(self.terms[later]):
                parts.append(self._foreseen[later])
                rest.difference_update(self.terms[later])
        parts += [self.mean[term] for term in self.terms[node] if term in rest]
        return sum(parts[1:], start=parts[0])

    def add_critic_return(self, node: str, prediction: Tensor, lam: float) -> None:
        """Let the nodes before this one take the critic's prediction for a share ``1 - lam`` of its cost-to-go."""
        self._foreseen[node] = (1 - lam) * prediction.detach() + lam * self.lambda_return(node)

    def average(self, draw: NodeSample) -> None:
        """Average the first axis away, that of the node just visited."""
        weight = draw.weight.detach()
        self.mean = {name: weighted_sum(draw, weight, value) for name, value in self.mean.items()}
        self._foreseen = {name: weighted_sum(draw, weight, value) for name, value in self._foreseen.items()}


def weighted_sum(draw: NodeSample, weight: Tensor, value: Tensor) -> Tensor:
    """Return the weighted sum over rows, whose weights sum to 1."""
    if value.shape[0] == 1 and not weight.requires_grad:
        return value.squeeze(0)
    return value.mean(0) if draw.equal_weights else (weight * mask_zero_weight(weight, value)).sum(0)


def mask_zero_weight(weight: Tensor, value: Tensor) -> Tensor:
    """Return ``value`` in the shape of both; a row of weight 0 may hold an infinity or a NaN, which become 0."""
    return torch.where((weight != 0) | value.isfinite(), value, 0)
