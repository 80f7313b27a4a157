"""Baselines of the score function: what is subtracted from the cost to lower the variance.

None of them depends on the value whose score it multiplies, so none of them adds bias.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit._core.components import Component
from vaekit.estimators.critic import Critic
from vaekit.estimators.discrete_support import get_logits, is_bernoulli, log_prob
from vaekit.estimators.node_sample import NodeSample, uniform_weight
from vaekit.estimators.running_moments import RunningMoments
from vaekit.exceptions import EstimatorError


class Baseline(Component, nn.Module, ABC):
    """Predicts the cost of a draw without looking at that draw.

    Attributes
    ----------
    min_samples
        Draws that a node must have.
    num_auxiliary_samples
        Rows of weight 0 that it adds to the draw.
    is_stateful
        Whether ``update`` has anything to do.
    """

    min_samples: ClassVar[int] = 1
    num_auxiliary_samples: ClassVar[int] = 0
    supports_importance_weighting: ClassVar[bool] = False

    def add_auxiliary_samples(self, draw: NodeSample) -> NodeSample:
        """Return the draw with the counterfactual rows whose cost the baseline needs; here, as it is.

        Parameters
        ----------
        draw
            Of the values alone.
        joint
            Whether it belongs to joint trajectories.
        """
        return draw

    def build(self, context_features: int) -> None:
        """Make the network's layers, once the width of the context is known; here, nothing."""

    is_stateful: ClassVar[bool] = False

    def update(self, cost: Tensor, weight: Tensor) -> None:
        """Take in costs ``[*rows, *batch]`` with their weights, after the baseline was used; here, nothing."""

    def loss(self, cost: Tensor, baseline: Tensor) -> Tensor | None:
        """Return the loss that trains the baseline, ``[*rows, *batch]``; here, None."""
        return None

    @abstractmethod
    def forward(self, draw: NodeSample, cost: Tensor) -> Tensor:
        """Return the baseline, broadcastable to ``cost`` ``[rows, *batch]``; with a gradient if it is learned."""


class MovingAverage(Baseline):
    r"""The moving average of earlier costs of the node; the current cost enters after it was used.

    .. math:: b_t = \frac{m_t}{1 - \lambda^t}, \quad m_{t+1} = \lambda m_t + (1 - \lambda) \bar f_t, \quad m_0 = 0

    with the decay :math:`\lambda` and the weighted mean cost :math:`\bar f_t` of step t (:math:`b_0 = 0`).

    Williams (1992), Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning; Kingma
    and Ba (2015), Adam: A Method for Stochastic Optimization (the correction of the bias towards 0).

    Parameters
    ----------
    decay
        Share of the old average that stays at each step.

    Raises
    ------
    EstimatorError
        If ``decay`` is not in [0, 1).
    """

    is_stateful = True

    def __init__(self, decay: float = 0.9) -> None:
        super().__init__()
        self.running = RunningMoments(decay)

    def forward(self, draw: NodeSample, cost: Tensor) -> Tensor:
        """Return the average of the costs before this one, a scalar."""
        return self.running.mean().to(cost)

    def update(self, cost: Tensor, weight: Tensor) -> None:
        """Move the average towards these costs."""
        self.running.update(cost, weight)


class LeaveOneOut(Baseline):
    r"""The mean cost of the other draws of the same node: :math:`b_i = \frac{1}{S-1} \sum_{j \ne i} f(z_j)`.

    Mnih and Rezende (2016), Variational Inference for Monte Carlo Objectives; Kool, van Hoof and Welling (2019),
    Buy 4 REINFORCE Samples, Get a Baseline for Free.
    """

    min_samples = 2
    supports_importance_weighting = True

    def __init__(self) -> None:
        super().__init__()

    def forward(self, draw: NodeSample, cost: Tensor) -> Tensor:
        """Return the mean of the other rows, ``[rows, *batch]``."""
        rows = cost.shape[0]
        if rows < 2:
            raise EstimatorError(f"LeaveOneOut has {rows} draw to compare: give num_samples of 2 or more")
        return (cost.sum(0, keepdim=True) - cost) / (rows - 1)


class LearnedBaseline(Baseline):
    r"""A network's prediction of the cost from the context, trained by regression on the costs seen.

    .. math:: b(x) = m + s\, h_\psi(x), \qquad \text{loss } \Big(\frac{f(z) - b(x)}{s}\Big)^2

    for the network :math:`h_\psi`, with the running mean m and deviation s of earlier costs.

    It is a :class:`Critic` that sees the context alone. Its loss is a term of value 0 in the expectation: calling
    ``backward`` on the expectation trains it, with no second loss.

    Mnih and Gregor (2014), Neural Variational Inference and Learning in Belief Networks.

    Parameters
    ----------
    network
        Module from the context ``[*batch, features]`` to ``[*batch, 1]`` or ``[*batch]``; a
        ``vaekit.networks.MLP`` gets its sizes from the model that it becomes part of.
    """

    is_stateful = True

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.critic = Critic(network)

    def build(self, context_features: int) -> None:
        """Make the layers of a vaekit network, and its last one with a single output."""
        self.critic.build(context_features)

    def forward(self, draw: NodeSample, cost: Tensor) -> Tensor:
        """Return the prediction, ``[*batch]``, with the gradient of the network alone."""
        if draw.context is None:
            raise EstimatorError(
                "the Learned baseline predicts the cost from a context: call expectation(..., context=x)"
            )
        return self.critic(draw.context).to(cost)

    def loss(self, cost: Tensor, baseline: Tensor) -> Tensor:
        """Return the squared error in units of the running deviation."""
        return self.critic.loss(cost, baseline)

    def update(self, cost: Tensor, weight: Tensor) -> None:
        """Move the running mean and deviation towards these costs."""
        self.critic.update(cost, weight)


class SelfCritic(Baseline):
    r"""The cost of the most probable value, evaluated beside the draws in a row of weight 0.

    .. math:: b = f(z^*), \qquad z^* = \arg\max_z q_\theta(z)

    Where that cost is not finite the baseline is 0.

    Rennie, Marcheret, Mroueh, Ross and Goel (2017), Self-Critical Sequence Training for Image Captioning.
    """

    num_auxiliary_samples = 1

    def __init__(self) -> None:
        super().__init__()

    def add_auxiliary_samples(self, draw: NodeSample) -> NodeSample:
        """Return the draw with the mode of its distribution as a last row (see the base class).

        Raises
        ------
        EstimatorError
            If there is no mode, or the draw is one of joint trajectories.
        """
        real, value = len(draw.value), torch.cat([draw.value, _mode(draw.q)])
        score = log_prob(draw.q, value)
        weight = uniform_weight(value, draw.q, score.dtype) * (len(value) / real)
        weight[real:] = 0
        return NodeSample(value, weight, score, draw.q)

    def forward(self, draw: NodeSample, cost: Tensor) -> Tensor:
        """Return the cost of the counterfactual row, ``[1, *batch]``."""
        return cost[-1:]


def _mode(q: Distribution) -> Tensor:
    """Return the most probable value, ``[1, *batch, *event]``."""
    if is_bernoulli(q):  # torch's mode is NaN at probability 1/2
        logits = get_logits(q)
        return (logits > 0).to(logits.dtype)[None].detach()
    try:
        mode = q.mode
    except NotImplementedError as error:
        raise EstimatorError(f"SelfCritic needs the mode of {type(q).__name__}, which torch does not have") from error
    return mode[None].detach()


def resolve_num_samples(estimator: str, num_samples: int | None, baseline: Baseline | None) -> int:
    """Return ``num_samples``, by default the least that the baseline allows; raise an error if it is less."""
    min_samples = 1 if baseline is None else baseline.min_samples
    if num_samples is not None and num_samples < min_samples > 1:
        raise EstimatorError(
            f"{estimator}: num_samples={num_samples} must be at least {min_samples}, because "
            f"{type(baseline).__name__} compares samples. For one sample use baseline=MovingAverage()."
        )
    return min_samples if num_samples is None else num_samples
