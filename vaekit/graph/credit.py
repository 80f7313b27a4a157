"""Credit assignment: the cost that each node is credited with, while the fold averages over nodes, deepest first.

Rao-Blackwellization by graph structure: a node is credited only with the cost terms that it can influence. With critics
this becomes the lambda-return: terms that a later node can influence as well are replaced by ``(1 - lam) V + lam G`` of
that node, where V is the prediction of its critic and G its own lambda-return.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vaekit.estimators.estimator import NodeSample
from vaekit.graph.dependencies import Node


class CreditAssignment:
    """The values of the cost terms, averaged over the nodes that the fold has visited.

    Parameters
    ----------
    nodes : Sequence[Node]
        Nodes, parents first.
    values : Mapping[str, Tensor], shape (S_n, ..., S_1, *batch)
        Value of each term, with size 1 in the sample dimensions that it does not depend on.
    inputs : Mapping[str, Sequence[str]]
        Nodes that each term depends on directly.
    """

    def __init__(
        self, nodes: Sequence[Node], values: Mapping[str, Tensor], inputs: Mapping[str, Sequence[str]]
    ) -> None:
        # mean of each term, [*sample, *batch], with the sample dimensions of the nodes that were not visited yet
        self.mean = {term: value.detach() for term, value in values.items()}
        self._ancestors = {node.name: node.ancestors for node in nodes}
        influences = {term: frozenset().union(*(self._ancestors[name] for name in inputs[term])) for term in values}
        # terms that each node can influence
        self.terms = {node.name: [term for term in values if node.name in influences[term]] for node in nodes}
        self._critic_returns: dict[str, Tensor] = {}  # of visited nodes with a critic, deepest first

    def cost_to_go(self, node: str) -> Tensor:
        """Return the sum of the terms that a node can influence, without critics."""
        first, *others = self.terms[node]
        return sum((self.mean[term] for term in others), start=self.mean[first])

    def lambda_return(self, node: str) -> Tensor:
        """Return the cost-to-go of a node in which the critic returns of its descendants replace the terms they cover.

        The closest descendants come first. A descendant is skipped if another one covers some of its terms.
        """
        uncovered, summands = set(self.terms[node]), []
        for later in reversed(self._critic_returns):
            if node in self._ancestors[later] and uncovered.issuperset(self.terms[later]):
                summands.append(self._critic_returns[later])
                uncovered.difference_update(self.terms[later])
        summands += [self.mean[term] for term in self.terms[node] if term in uncovered]
        return sum(summands[1:], start=summands[0])

    def add_critic_return(self, node: str, prediction: Tensor, lam: float) -> None:
        """Replace a fraction ``1 - lam`` of the node's cost-to-go by the critic's prediction, for earlier nodes."""
        self._critic_returns[node] = (1 - lam) * prediction.detach() + lam * self.lambda_return(node)

    def average(self, sample: NodeSample) -> None:
        """Average over the first dimension: the samples of the node that was visited last."""
        weight = sample.weight.detach()
        for values in (self.mean, self._critic_returns):
            values.update({name: weighted_sum(sample, weight, value) for name, value in values.items()})


def weighted_sum(sample: NodeSample, weight: Tensor, value: Tensor) -> Tensor:
    """Return the sum over the first dimension with weights that sum to 1."""
    if value.shape[0] == 1 and not weight.requires_grad:
        return value.squeeze(0)
    return value.mean(0) if sample.equal_weights else (weight * mask_zero_weight(weight, value)).sum(0)


def mask_zero_weight(weight: Tensor, value: Tensor) -> Tensor:
    """Return ``value``, broadcast to the shape of both, with 0 for an infinity or NaN in a sample of weight 0."""
    return torch.where((weight != 0) | value.isfinite(), value, 0)
