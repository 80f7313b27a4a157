"""Derivatives of an expectation by probabilities of exactly 0, which sampling alone does not show.

At probabilities p with p_k = 0 the expected cost has the derivative f(k) - E[f] by p_k, but state k is never sampled.
Each sample therefore gets an auxiliary one, with one variable moved to an impossible state, if p has a gradient.
Logits do not have a gradient there, so states that are masked by logits of -inf are never evaluated. Estimators that
list states replace these by a possible state, so that a cost without a value or derivative there does no harm.
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
    "The cost was also evaluated at states of probability 0, because the gradient with respect to a probability of "
    "exactly 0 needs this cost. If the cost is not defined there, use logits of minus infinity instead of probs, or "
    "detach the probs."
)
LOG_ZERO = -1e29  # log-probabilities below this are impossible; some estimators clamp them to -1e30


class Completed(NamedTuple):
    """A sample before auxiliary samples of impossible states were added.

    Attributes
    ----------
    sample : NodeSample
        The estimator's own sample.
    slope : Tensor, shape (samples, *batch)
        Zeros with the gradient of the probability of the auxiliary sample's state.
    """

    sample: NodeSample
    slope: Tensor

    def correction(self, estimator: Estimator, cost: Tensor, masked_cost: Tensor) -> Tensor:
        """Return the estimator's correction plus the derivative with respect to probabilities of impossible states.

        Parameters
        ----------
        estimator : Estimator
            Estimator of the sample.
        cost : Tensor, shape (2 samples, *batch)
            Unmasked cost of all samples.
        masked_cost : Tensor, shape (samples, *batch)
            Cost of the estimator's own samples, in the form that it expects.
        """
        unmoved, moved = cost.detach().chunk(2)
        change = torch.where((self.sample.weight > 0) & moved.isfinite(), moved - unmoved, 0)
        correction = estimator.correction(self.sample, masked_cost) + self.slope * change
        return torch.cat([correction, torch.zeros_like(correction)])


def complete(estimator: Estimator, sample: NodeSample, name: str, joint: bool) -> NodeSample:
    """Return the sample with auxiliary samples if a probability of exactly 0 has a gradient."""
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return sample
    slope = _slopes(sample.q)
    if slope is None or not slope.requires_grad:
        return _without_impossible(sample) if estimator.lists_states else sample
    impossible = slope.detach() > 0
    if estimator.handles_zero_probabilities or not impossible.any():
        return sample
    if joint:
        warnings.warn(
            f"node {name!r}: some probabilities are exactly 0. Joint samples do not contain the states that are never "
            "sampled, so the gradient with respect to these probabilities lacks their cost. Leave num_samples of the "
            "expectation at None, or use logits.",
            stacklevel=2,
        )
        return sample
    # choose one impossible change per sample, uniformly
    shape = sample.value.shape[: sample.value.dim() - len(sample.q.event_shape)]
    changes = impossible.shape[len(shape) - 1 :]  # [*variables, changes]
    flat = impossible.expand(*shape, *changes).flatten(len(shape))
    index = torch.rand(flat.shape, device=flat.device).masked_fill(~flat, -1).argmax(-1)
    change = (F.one_hot(index, flat.shape[-1]).bool() & flat).reshape(*shape, *changes)
    moved = _move(sample.q, sample.value, change).detach()
    zero = torch.where(impossible, slope - slope.detach(), 0)
    slope = (zero * change).flatten(len(shape)).sum(-1) * flat.sum(-1)
    value = torch.cat([sample.value, moved])
    weight = torch.cat([sample.weight, torch.zeros_like(sample.weight)])
    return NodeSample(value, weight, sample.log_prob, sample.q, completed=Completed(sample, slope))


def _without_impossible(sample: NodeSample) -> NodeSample:
    """Return the sample with the most probable value in place of impossible ones."""
    if sample.log_prob is None or not unwrap_independent(sample.q)[0].has_enumerate_support:
        return sample
    impossible = sample.log_prob.detach() < LOG_ZERO  # always replaced: a check would wait for the device
    most_probable = sample.log_prob.detach().argmax(0, keepdim=True)
    event = (1,) * len(sample.q.event_shape)
    index = most_probable.reshape(most_probable.shape + event).expand(1, *sample.value.shape[1:])
    possible = sample.value.gather(0, index)
    return sample._replace(value=torch.where(impossible.reshape(impossible.shape + event), possible, sample.value))


def _slopes(q: Distribution) -> Tensor | None:
    """Return a tensor that is positive at impossible states, with the derivative of their probability.

    Its shape is (*batch, *variables, changes). The changes of a variable are its categories. Those of a binary
    variable are up, then down.
    """
    base: Any = unwrap_independent(q)[0]
    if isinstance(base, Poisson):
        return torch.where(base.rate > 0, 0, 1 + base.rate)[..., None]
    probs = given_probs(base)
    if probs is None:
        return None
    count = getattr(base, "total_count", 1)
    if isinstance(base, Geometric):
        return torch.where(probs < 1, 0, 2 - probs)[..., None]
    up = torch.where(probs > 0, 0, 1 + count * probs)
    if isinstance(base, NegativeBinomial):
        return up[..., None]
    if isinstance(base, Categorical | OneHotCategorical | Multinomial):
        return up
    if isinstance(base, Bernoulli | Binomial):
        return torch.stack([up, torch.where(probs < 1, 0, 1 + count * (1 - probs))], -1)
    return None


def _move(q: Distribution, value: Tensor, chosen: Tensor) -> Tensor:
    """Return the value with the chosen change of one variable, shape (samples, *batch, *event)."""
    base = unwrap_independent(q)[0]
    if isinstance(base, OneHotCategorical):
        moved = chosen.to(value.dtype)
    elif isinstance(base, Multinomial):  # one of its trials, at random
        ended = value.cumsum(-1) > torch.rand_like(value[..., :1]) * value.sum(-1, keepdim=True)
        moved = value - F.one_hot(ended.to(torch.uint8).argmax(-1), value.shape[-1]).to(value) + chosen.to(value)
    elif isinstance(base, Categorical):
        moved = chosen.to(torch.uint8).argmax(-1)
    else:
        up = chosen[..., 0].to(value.dtype)
        moved = value + up - (1 - up if chosen.shape[-1] == 2 else 0)
    variable = chosen.any(-1, keepdim=isinstance(base, OneHotCategorical | Multinomial))
    return torch.where(variable, moved, value)
