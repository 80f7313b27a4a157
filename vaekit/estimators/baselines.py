"""Baselines of the score function, which are subtracted from the cost and reduce the variance.

No baseline depends on the value whose score it multiplies, so none adds bias.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from typing_extensions import override

from vaekit._core.components import Component
from vaekit.estimators.critic import Critic
from vaekit.estimators.discrete_support import get_logits, is_bernoulli, log_prob
from vaekit.estimators.node_sample import NodeSample, uniform_weight
from vaekit.estimators.running_moments import RunningMoments
from vaekit.exceptions import EstimatorError


class Baseline(Component, nn.Module, ABC):
    """Prediction of the cost of a sample that does not depend on this sample.

    Attributes
    ----------
    min_samples : int
        Number of samples that a node needs at least.
    num_auxiliary_samples : int
        Number of samples of weight 0 that the baseline adds.
    supports_importance_weighting : bool
        Whether the importance-weighted bound has a counterpart of this baseline.
    is_stateful : bool
        Whether ``update`` changes anything.

    Examples
    --------
    A baseline of the user's own, the cost that the user knows to be typical:

    >>> import torch, vaekit
    >>> from torch.distributions import Bernoulli
    >>> class Typical(vaekit.estimators.Baseline):
    ...     def forward(self, sample, cost):
    ...         return torch.full_like(cost, 100.5)
    >>> logit = torch.zeros((), requires_grad=True)
    >>> estimator = vaekit.estimators.ScoreFunction(baseline=Typical())
    >>> vaekit.expectation(lambda b: 100 + b, Bernoulli(logits=logit.expand(1000)), estimator).mean().backward()
    >>> logit.grad  # without noise: both values are as far from the baseline
    tensor(0.2500)
    """

    min_samples: ClassVar[int] = 1
    num_auxiliary_samples: ClassVar[int] = 0
    supports_importance_weighting: ClassVar[bool] = False
    is_stateful: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()

    def add_auxiliary_samples(self, sample: NodeSample) -> NodeSample:
        """Return the sample with the auxiliary samples whose cost the baseline needs. The default adds none."""
        return sample

    def build(self, context_features: int) -> None:
        """Create the layers of the network once the width of the context is known."""

    def update(self, cost: Tensor, weight: Tensor) -> None:
        """Update with costs ``[*samples, *batch]`` and their weights, after the baseline was used."""

    def loss(self, cost: Tensor, baseline: Tensor) -> Tensor | None:
        """Return the loss that trains the baseline, ``[*samples, *batch]``; None if it does not learn."""
        return None

    @abstractmethod
    def forward(self, sample: NodeSample, cost: Tensor) -> Tensor:
        """Return the baseline, broadcastable to ``cost`` ``[samples, *batch]``; with a gradient if it is learned."""


class MovingAverage(Baseline):
    r"""The moving average of earlier costs of the node, updated with the current cost after its use.

    .. math:: b_t = \frac{m_t}{1 - \lambda^t}, \quad m_{t+1} = \lambda m_t + (1 - \lambda) \bar f_t, \quad m_0 = 0

    with the decay :math:`\lambda` and the weighted mean cost :math:`\bar f_t` of step t (:math:`b_0 = 0`).

    Williams (1992), Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning; Kingma
    and Ba (2015), Adam: A Method for Stochastic Optimization (the correction of the bias towards 0).

    Parameters
    ----------
    decay : float
        Fraction of the old average that remains after each step.

    Raises
    ------
    EstimatorError
        If ``decay`` is not in [0, 1).

    Examples
    --------
    >>> import torch, vaekit
    >>> from torch.distributions import Bernoulli
    >>> logit = torch.ones((), requires_grad=True)  # E[(b - 0.3)^2] has the gradient 0.4 p (1 - p) = 0.08
    >>> q = Bernoulli(logits=logit.expand(100_000))
    >>> estimator = vaekit.estimators.ScoreFunction(baseline=vaekit.estimators.MovingAverage())
    >>> vaekit.expectation(lambda b: (b - 0.3) ** 2, q, estimator).mean().backward()
    >>> round(logit.grad.item(), 2)
    0.08
    """

    is_stateful = True

    def __init__(self, decay: float = 0.9) -> None:
        super().__init__()
        self.running = RunningMoments(decay)

    @override
    def forward(self, sample: NodeSample, cost: Tensor) -> Tensor:
        return self.running.mean().to(cost)

    @override
    def update(self, cost: Tensor, weight: Tensor) -> None:
        self.running.update(cost, weight)


class LeaveOneOut(Baseline):
    r"""The mean cost of the other samples of the same node: :math:`b_i = \frac{1}{S-1} \sum_{j \ne i} f(z_j)`.

    Mnih and Rezende (2016), Variational Inference for Monte Carlo Objectives; Kool, van Hoof and Welling (2019),
    Buy 4 REINFORCE Samples, Get a Baseline for Free.

    Examples
    --------
    >>> import torch, vaekit
    >>> from torch.distributions import Bernoulli
    >>> logit = torch.ones((), requires_grad=True)  # E[(b - 0.3)^2] has the gradient 0.4 p (1 - p) = 0.08
    >>> q = Bernoulli(logits=logit.expand(100_000))
    >>> estimator = vaekit.estimators.ScoreFunction(2, vaekit.estimators.LeaveOneOut())
    >>> vaekit.expectation(lambda b: (b - 0.3) ** 2, q, estimator).mean().backward()
    >>> round(logit.grad.item(), 2)
    0.08
    """

    min_samples = 2
    supports_importance_weighting = True

    @override
    def forward(self, sample: NodeSample, cost: Tensor) -> Tensor:
        samples = len(cost)
        if samples < 2:
            raise EstimatorError(f"LeaveOneOut: num_samples={samples} must be at least 2.")
        return (cost.sum(0, keepdim=True) - cost) / (samples - 1)


class LearnedBaseline(Baseline):
    r"""A network's prediction of the cost from the context, trained by regression on earlier costs.

    .. math:: b(x) = m + s\, h_\psi(x), \qquad \text{loss } \Big(\frac{f(z) - b(x)}{s}\Big)^2

    for the network :math:`h_\psi`, with the running mean m and deviation s of earlier costs.

    It is a :class:`Critic` of the context only. Its loss is a zero-valued term of the expectation, so calling
    ``backward`` on the expectation trains it without a second loss.

    Mnih and Gregor (2014), Neural Variational Inference and Learning in Belief Networks.

    Parameters
    ----------
    network : nn.Module
        Maps the context ``[*batch, features]`` to ``[*batch, 1]`` or ``[*batch]``. In a model, a
        ``vaekit.networks.MLP`` receives its sizes.

    Examples
    --------
    The cost depends on the context ``x``, and so does the baseline:

    >>> import torch, vaekit
    >>> from torch.distributions import Bernoulli
    >>> logit, x = torch.ones((), requires_grad=True), torch.randn(1000, 1)
    >>> baseline = vaekit.estimators.LearnedBaseline(torch.nn.Linear(1, 1))
    >>> estimator = vaekit.estimators.ScoreFunction(baseline=baseline)
    >>> q = Bernoulli(logits=logit.expand(1000))
    >>> vaekit.expectation(lambda b: b + x[:, 0], q, estimator, context=x).mean().backward()
    >>> all(parameter.grad is not None for parameter in baseline.parameters())  # the same backward pass trains it
    True
    """

    is_stateful = True

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.critic = Critic(network)

    @override
    def build(self, context_features: int) -> None:
        self.critic.build(context_features)

    @override
    def forward(self, sample: NodeSample, cost: Tensor) -> Tensor:
        if sample.context is None:
            raise EstimatorError("LearnedBaseline: context=None must be a tensor. Call expectation(..., context=x).")
        return self.critic(sample.context).to(cost)

    @override
    def loss(self, cost: Tensor, baseline: Tensor) -> Tensor:
        return self.critic.loss(cost, baseline)

    @override
    def update(self, cost: Tensor, weight: Tensor) -> None:
        self.critic.update(cost, weight)


class SelfCritic(Baseline):
    r"""The cost of the most probable value, evaluated as an auxiliary sample.

    .. math:: b = f(z^*), \qquad z^* = \arg\max_z q_\theta(z)

    The baseline is 0 if this cost is not finite.

    Rennie, Marcheret, Mroueh, Ross and Goel (2017), Self-Critical Sequence Training for Image Captioning.

    Examples
    --------
    >>> import torch, vaekit
    >>> from torch.distributions import Bernoulli
    >>> logit = torch.ones((), requires_grad=True)  # E[(b - 0.3)^2] has the gradient 0.4 p (1 - p) = 0.08
    >>> q = Bernoulli(logits=logit.expand(100_000))
    >>> estimator = vaekit.estimators.ScoreFunction(baseline=vaekit.estimators.SelfCritic())
    >>> vaekit.expectation(lambda b: (b - 0.3) ** 2, q, estimator).mean().backward()
    >>> round(logit.grad.item(), 2)
    0.08
    """

    num_auxiliary_samples = 1

    @override
    def add_auxiliary_samples(self, sample: NodeSample) -> NodeSample:
        value = torch.cat([sample.value, _mode(sample.q)])
        score = log_prob(sample.q, value)
        return NodeSample(value, uniform_weight(value, sample.q, score.dtype, auxiliary=1), score, sample.q)

    @override
    def forward(self, sample: NodeSample, cost: Tensor) -> Tensor:
        return cost[-1:]


def _mode(q: Distribution) -> Tensor:
    """Return the most probable value, ``[1, *batch, *event]``."""
    if is_bernoulli(q):  # torch's mode is NaN at probability 1/2
        logits = get_logits(q)
        return (logits > 0).to(logits.dtype)[None].detach()
    try:
        return q.mode[None].detach()
    except NotImplementedError as error:
        raise EstimatorError(
            f"SelfCritic: {type(q).__name__} does not have a mode in torch. Use baseline=LeaveOneOut()."
        ) from error


def resolve_num_samples(estimator: str, num_samples: int | None, baseline: Baseline | None) -> int:
    """Return ``num_samples``, by default the minimum of the baseline; raise an error below this minimum."""
    min_samples = 1 if baseline is None else baseline.min_samples
    if num_samples is not None and num_samples < min_samples > 1:
        raise EstimatorError(
            f"{estimator}: num_samples={num_samples} must be at least {min_samples}, because "
            f"{type(baseline).__name__} compares samples. Use baseline=MovingAverage() for one sample."
        )
    return min_samples if num_samples is None else num_samples
