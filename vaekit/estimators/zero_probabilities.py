"""The derivative of an expectation by a probability of exactly 0, which no sample shows.

At probabilities p with p_k = 0 the expected cost has the derivative f(k) - E[f] by p_k, but state k is never drawn.
Each sample therefore gets an auxiliary one, of weight 0, with one variable moved to an impossible state, if p has a
gradient. Logits do not have one there: states that are masked by logits of -inf are never evaluated. Estimators that
list them have a possible state in their place, so that a cost without a value or derivative there does no harm.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Binomial,
    Categorical,
    Distribution,
    Geometric,
    Multinomial,
    NegativeBinomial,
    OneHotCategorical,
    Poisson,
)

from vaekit.distributions.precise import given_probs
from vaekit.estimators.discrete_support import unwrap_independent
from vaekit.estimators.estimator import Estimator
from vaekit.estimators.node_sample import NodeSample

EVALUATED_THERE = (
    "The cost was evaluated also at states of probability 0, as the gradient by a probability of exactly 0 needs their "
    "cost. If it has none there, give logits of minus infinity instead of probs, or detach the probs."
)
_LOWEST = -1e29  # of log-probabilities: below are those of impossible states, which some estimators clamp


class Completed(NamedTuple):
    """A draw before its auxiliary samples were added.

    Attributes
    ----------
    draw
        The draw of the estimator alone.
    slope
        ``[rows, *batch]``, zeros with the gradient of the probability that the auxiliary sample is about.
    """

    sample: NodeSample
    slope: Tensor

    def correction(self, estimator: Estimator, cost: Tensor, masked_cost: Tensor) -> Tensor:
        """Return the estimator's correction, and the derivative by the probabilities of impossible states.

        Parameters
        ----------
        estimator
            The one that made the draw.
        cost
            ``[2 rows, *batch]``, as it is.
        masked_cost
            ``[rows, *batch]``, of the draw alone and as the estimator expects it.
        """
        real, moved = cost.detach().chunk(2)
        change = torch.where((self.sample.weight > 0) & moved.isfinite(), moved - real, 0)
        own = estimator.correction(self.sample, masked_cost) + self.slope * change
        return torch.cat([own, torch.zeros_like(own)])


def complete(estimator: Estimator, draw: NodeSample, name: str, joint: bool) -> NodeSample:
    """Return the draw with its auxiliary samples, where a probability of exactly 0 has a gradient."""
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return draw
    slope = _slopes(draw.q)
    if slope is None or not slope.requires_grad:
        return _without_impossible(draw) if estimator.lists_states else draw
    if estimator.handles_zero_probabilities:
        return draw
    impossible = slope.detach() > 0
    if not impossible.any():
        return draw
    if joint:
        warnings.warn(
            f"node {name!r}: some probabilities are exactly 0. Joint samples have no place for the states that are "
            "never drawn, so the gradient by these probabilities lacks their cost. Leave num_samples of the "
            "expectation at None, or use logits.",
            stacklevel=2,
        )
        return draw
    shape = draw.value.shape[: draw.value.dim() - len(draw.q.event_shape)]
    flat = impossible.expand(*shape, *impossible.shape[len(shape) - 1 :]).flatten(len(shape))
    index = torch.rand(flat.shape, device=flat.device).masked_fill(~flat, -1).argmax(-1, keepdim=True)
    chosen = F.one_hot(index[..., 0], flat.shape[-1]).bool() & flat
    chosen = chosen.reshape(*shape, *impossible.shape[len(shape) - 1 :])
    moved = torch.where(_per_variable(draw.q, chosen), _moved(draw.q, draw.value, chosen), draw.value).detach()
    zero = torch.where(impossible, slope - slope.detach(), 0)
    own = (zero * chosen).flatten(len(shape)).sum(-1) * flat.sum(-1)
    value = torch.cat([draw.value, moved])
    weight = torch.cat([draw.weight, torch.zeros_like(draw.weight)])
    return NodeSample(value, weight, draw.log_prob, draw.q, completed=Completed(draw, own))


def _without_impossible(draw: NodeSample) -> NodeSample:
    """Return the draw with the most probable row in place of rows that are impossible and listed nevertheless."""
    if draw.log_prob is None or not unwrap_independent(draw.q)[0].has_enumerate_support:
        return draw
    impossible = draw.log_prob.detach() < _LOWEST  # without a look whether there is one: a GPU would be waited for
    best = draw.log_prob.detach().argmax(0, keepdim=True)
    event = (1,) * len(draw.q.event_shape)
    possible = draw.value.gather(0, best.reshape(best.shape + event).expand(1, *draw.value.shape[1:]))
    return draw._replace(value=torch.where(impossible.reshape(impossible.shape + event), possible, draw.value))


def _slopes(q: Distribution) -> Tensor | None:
    """Return a tensor that is positive where a state is impossible, with the derivative of its probability.

    ``[*batch, *variables, changes]``: the changes of a variable are its categories; of a binary one up, then down.
    """
    base: Any = unwrap_independent(q)[0]
    count: Any
    if isinstance(base, Poisson):
        up = torch.where(base.rate > 0, 0, 1 + base.rate)
        return up[..., None]
    probs = given_probs(base)
    if probs is None:
        return None
    if isinstance(base, Geometric):
        return torch.where(probs < 1, 0, 2 - probs)[..., None]
    if isinstance(base, NegativeBinomial):
        return torch.where(probs > 0, 0, 1 + base.total_count * probs)[..., None]
    if isinstance(base, Categorical | OneHotCategorical | Multinomial):
        count = base.total_count if isinstance(base, Multinomial) else 1
        return torch.where(probs > 0, 0, 1 + count * probs)
    if isinstance(base, Bernoulli | Binomial):
        count = base.total_count if isinstance(base, Binomial) else 1
        up, down = torch.where(probs > 0, 0, 1 + count * probs), torch.where(probs < 1, 0, 1 + count * (1 - probs))
        return torch.stack([up, down], -1)
    return None


def _per_variable(q: Distribution, chosen: Tensor) -> Tensor:
    """Return which variables are moved, broadcastable to the value."""
    return chosen.any(-1, keepdim=isinstance(unwrap_independent(q)[0], OneHotCategorical | Multinomial))


def _moved(q: Distribution, value: Tensor, chosen: Tensor) -> Tensor:
    """Return the value with the chosen changes."""
    base = unwrap_independent(q)[0]
    if isinstance(base, OneHotCategorical):
        return chosen.to(value.dtype)
    if isinstance(base, Multinomial):  # one of its draws, at random
        ended = value.cumsum(-1) > torch.rand_like(value[..., :1]) * value.sum(-1, keepdim=True)
        return value - F.one_hot(ended.to(torch.uint8).argmax(-1), value.shape[-1]).to(value) + chosen.to(value)
    if isinstance(base, Categorical):
        return chosen.to(torch.uint8).argmax(-1)
    up = chosen[..., 0].to(value.dtype)
    return value + up - (1 - up if chosen.shape[-1] == 2 else 0)
