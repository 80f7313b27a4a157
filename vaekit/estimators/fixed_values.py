"""Draws of values that are known already."""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Distribution

from vaekit.estimators.discrete_support import log_prob
from vaekit.estimators.estimator import NodeSample, uniform_weight


def sample_from_values(q: Distribution, value: Tensor) -> NodeSample:
    """Return the draw of values that are known already: the actions of a simulator's record, say.

    :meth:`ScoreFunction.correction` of it, given costs, has the gradient of a policy, time being an axis of the batch.

    Parameters
    ----------
    q
        Distribution with batch shape ``[*batch]``, or ``[rows, *batch]``.
    value
        ``[rows, *batch, *event]``, drawn from it.

    Returns
    -------
    Draw
        With equal weights.

    Examples
    --------
    >>> import torch
    >>> from torch.distributions import Categorical
    >>> from vaekit.estimators import ScoreFunction
    >>> logits = torch.zeros(3, 2, requires_grad=True)  # of two actions at three steps
    >>> draw = recorded(Categorical(logits=logits), torch.tensor([[0, 1, 1]]))
    >>> ScoreFunction().correction(draw, cost=torch.tensor([[-1.0, 0.0, 2.0]])).sum().backward()
    >>> logits.grad  # (one-hot action - probabilities) * cost
    tensor([[-0.5000,  0.5000],
            [ 0.0000,  0.0000],
            [-1.0000,  1.0000]])
    """
    score = log_prob(q, value)
    return NodeSample(value, uniform_weight(value, q, score.dtype), score, q, equal_weights=True)
