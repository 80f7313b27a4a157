"""The sample of one node: values, weights and log-probabilities, with the averages that corrections need."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit.estimators.discrete_support import log_prob


class NodeSample(NamedTuple):
    """Values that an estimator sampled at one node.

    Attributes
    ----------
    value : Tensor, shape (samples, *batch, *event)
        Sampled values. They carry the pathwise gradient, if there is one.
    weight : Tensor, shape (samples, *batch) or broadcastable to it
        Weight of each sample; the first dimension always has full size. The weights sum to 1 over the samples. An
        auxiliary sample has weight 0. Weights carry a gradient if they depend on the parameters.
    log_prob : Tensor or None, shape (samples, *batch)
        Log-density or log-probability at the detached value. None if no correction needs it.
    q : Distribution
        Distribution of the node.
    noise
        Additional input of ``correction``, which only the estimator itself reads.
    context : Tensor or None, shape (*batch, features)
        Input of learned baselines. The graph sets it.
    outer : tuple of Tensor
        Weights of the nodes before this one, the closest first, each of shape (samples, *samples before, *batch). The
        graph sets them.
    equal_weights : bool
        Whether all weights are ``1 / samples`` by construction, so that no sample needs a mask.
    completed
        The sample without its auxiliary samples of impossible states, see ``zero_probabilities``. The graph sets it.

    Examples
    --------
    >>> import torch, vaekit
    >>> from torch.distributions import Bernoulli
    >>> sample = vaekit.estimators.Enumerate().sample(Bernoulli(probs=torch.tensor([0.25])))
    >>> sample.value.tolist(), sample.weight.tolist()
    ([[0.0], [1.0]], [[0.75], [0.25]])
    """

    value: Tensor
    weight: Tensor
    log_prob: Tensor | None
    q: Distribution
    noise: Any = None
    context: Tensor | None = None
    outer: tuple[Tensor, ...] = ()
    equal_weights: bool = False
    completed: Any = None


def sample_from_values(q: Distribution, value: Tensor) -> NodeSample:
    """Return a sample of known values, such as the recorded actions of a simulator.

    The result of :meth:`vaekit.estimators.ScoreFunction.correction` for this sample has the policy gradient if time is
    a batch dimension.

    Parameters
    ----------
    q : Distribution
        Distribution of the values, with batch shape (*batch) or (samples, *batch).
    value : Tensor, shape (samples, *batch, *event)
        Values that were sampled from ``q``.

    Returns
    -------
    NodeSample
        The values with equal weights.

    Examples
    --------
    >>> import torch
    >>> from torch.distributions import Categorical
    >>> from vaekit.estimators import ScoreFunction
    >>> logits = torch.zeros(3, 2, requires_grad=True)  # of two actions at three steps
    >>> sample = sample_from_values(Categorical(logits=logits), torch.tensor([[0, 1, 1]]))
    >>> ScoreFunction().correction(sample, cost=torch.tensor([[-1.0, 0.0, 2.0]])).sum().backward()
    >>> logits.grad  # (one-hot action - probabilities) * cost
    tensor([[-0.5000,  0.5000],
            [ 0.0000,  0.0000],
            [-1.0000,  1.0000]])
    """
    score = log_prob(q, value)
    return NodeSample(value, uniform_weight(value, q, score.dtype), score, q, equal_weights=True)


def uniform_weight(value: Tensor, q: Distribution, dtype: torch.dtype | None = None, auxiliary: int = 0) -> Tensor:
    """Return equal weights, shape (samples, 1, ..., 1), except for 0 at the last ``auxiliary`` samples."""
    samples, rank = len(value), value.dim() - len(q.event_shape)
    dtype = dtype or (value.dtype if value.is_floating_point() else torch.get_default_dtype())
    weight = torch.full((samples, *[1] * (rank - 1)), 1.0 / (samples - auxiliary), dtype=dtype, device=value.device)
    if auxiliary:
        weight[-auxiliary:] = 0
    return weight


def average_outer(sample: NodeSample, value: Tensor) -> Tensor:
    """Average ``[samples, *outer samples, *batch]`` over the outer samples that share this sample.

    One derivative of a shared sample serves all these costs. A correction that multiplies a derivative by costs
    therefore averages the costs first.
    """
    for dim, weight in enumerate(sample.outer, start=1):
        if value.shape[dim] > 1 and sample.value.shape[dim] == 1:
            value = (weight * torch.where(weight != 0, value, 0)).sum(dim, keepdim=True)
    return value


def average_batch(sample: NodeSample, value: Tensor) -> Tensor:
    """Average ``[samples, *outer samples, *batch]`` over the batch dimensions that share this sample.

    The sample has size 1 there. The derivative of a control variate within the step reaches every such entry, so the
    entries need one common control variate.
    """
    first = 1 + len(sample.outer)
    dims = [dim for dim in range(first, value.dim()) if value.shape[dim] > 1 and sample.value.shape[dim] == 1]
    return value.mean(dims, keepdim=True) if dims else value


def sum_event(value: Tensor, q: Distribution) -> Tensor:
    """Sum ``[..., *event]`` over the event of ``q``."""
    dims = tuple(range(-len(q.event_shape), 0))
    return value.sum(dims) if dims else value


def pad_auxiliary(correction: Tensor, num_auxiliary: int) -> Tensor:
    """Append zeros for auxiliary samples."""
    return torch.cat([correction, correction.new_zeros(num_auxiliary, *correction.shape[1:])])
