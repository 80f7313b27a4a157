"""Baselines of the score function: what is subtracted from the cost to lower the variance.

None of them depends on the value whose score it multiplies, so none of them adds bias.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit.component import Component
from vaekit.estimators.base import Draw
from vaekit.estimators.discrete import is_bernoulli, logits_of
from vaekit.exceptions import EstimatorError


class Baseline(Component, nn.Module, ABC):
    """Predicts the cost of a draw without looking at that draw.

    Attributes
    ----------
    min_samples
        Draws that a node must have.
    counterfactual_rows
        Rows of weight 0 that it adds to the draw.
    keeps_state
        Whether ``update`` has anything to do.
    """

    min_samples: ClassVar[int] = 1
    counterfactual_rows: ClassVar[int] = 0

    def counterfactual(self, q: Distribution) -> Tensor | None:
        """Return values ``[counterfactual_rows, *batch, *event]`` whose cost the baseline needs; here, none."""
        return None

    def build(self, context_features: int) -> None:
        """Make the network's layers, once the width of the context is known; here, nothing."""

    keeps_state: ClassVar[bool] = False

    def update(self, cost: Tensor, weight: Tensor) -> None:
        """Take in costs ``[*rows, *batch]`` with their weights, after the baseline was used; here, nothing."""

    def loss(self, cost: Tensor, baseline: Tensor) -> Tensor | None:
        """Return the loss that trains the baseline, ``[*rows, *batch]``; here, None."""
        return None

    @abstractmethod
    def forward(self, draw: Draw, cost: Tensor) -> Tensor:
        """Return the baseline, broadcastable to ``cost`` ``[rows, *batch]``; with a gradient if it is learned."""


class _RunningMean(nn.Module):
    """Bias-corrected exponential moving averages of the cost and of its square, held as buffers."""

    def __init__(self, decay: float) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise EstimatorError(f"decay is {decay}, it must lie in [0, 1)")
        self.decay = decay
        self.first: Tensor
        self.second: Tensor
        self.seen: Tensor
        for name in ("first", "second", "seen"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))

    def mean(self) -> Tensor:
        """Return the mean of the costs before this one; 0 before the first."""
        return self.first / self.seen.clamp_min(torch.finfo(torch.float64).tiny)

    def scale(self) -> Tensor:
        """Return the standard deviation of the costs before this one; 1 before the first."""
        square = self.second / self.seen.clamp_min(torch.finfo(torch.float64).tiny)
        deviation = (square - self.mean().square()).clamp_min(0).sqrt()
        return torch.where(deviation > 0, deviation, 1.0)

    @torch.no_grad()
    def update(self, cost: Tensor, weight: Tensor) -> None:
        """Take in the weighted means of ``cost`` and its square; costs that are not finite change nothing."""
        weight = weight.to(self.first).expand(cost.shape)
        cost = torch.where(weight > 0, cost.to(self.first), 0)  # counterfactual rows may hold anything
        share = weight / weight.sum()
        new = torch.stack([(share * cost).sum(), (share * cost.square()).sum(), share.sum()])
        old = torch.stack([self.first, self.second, self.seen])
        kept = torch.where(new.isfinite().all(), torch.lerp(new, old, self.decay), old)
        for buffer, value in zip((self.first, self.second, self.seen), kept, strict=True):
            buffer.copy_(value)


class MovingAverage(Baseline):
    """The moving average of earlier costs of the node; the current cost enters after it was used.

    Parameters
    ----------
    decay
        Share of the old average that stays at each step.

    Raises
    ------
    EstimatorError
        If ``decay`` is not in [0, 1).
    """

    keeps_state = True

    def __init__(self, decay: float = 0.9) -> None:
        super().__init__()
        self.running = _RunningMean(decay)

    def forward(self, draw: Draw, cost: Tensor) -> Tensor:
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

    def __init__(self) -> None:
        super().__init__()

    def forward(self, draw: Draw, cost: Tensor) -> Tensor:
        """Return the mean of the other rows, ``[rows, *batch]``."""
        rows = cost.shape[0]
        if rows < 2:
            raise EstimatorError(f"LeaveOneOut has {rows} draw to compare: give num_samples of 2 or more")
        return (cost.sum(0, keepdim=True) - cost) / (rows - 1)


class Learned(Baseline):
    """A network's prediction of the cost from the context, trained by regression on the costs seen.

    The prediction is standardised by the running mean and deviation of earlier costs, so that the network
    starts from the moving average. Its loss is a term of value 0 in the expectation: calling ``backward`` on
    the expectation trains it, with no second loss.

    Mnih and Gregor (2014), Neural Variational Inference and Learning in Belief Networks.

    Parameters
    ----------
    network
        Module from the context ``[*batch, features]`` to ``[*batch, 1]`` or ``[*batch]``; a
        ``vaekit.networks.MLP`` gets its sizes from the model that it becomes part of.
    """

    keeps_state = True

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.running = _RunningMean(0.9)
        self.head: nn.Module = nn.Identity()

    def build(self, context_features: int) -> None:
        """Make the layers of a vaekit network, and its last one with a single output."""
        build: Any = getattr(self.network, "build", None)
        if build is not None:
            self.head = nn.Linear(build(context_features), 1)

    def forward(self, draw: Draw, cost: Tensor) -> Tensor:
        """Return the prediction, ``[*batch]``, with the gradient of the network alone."""
        if draw.context is None:
            raise EstimatorError(
                "the Learned baseline predicts the cost from a context: call expectation(..., context=x)"
            )
        prediction = self.head(self.network(draw.context.detach()))
        if prediction.dim() == draw.context.dim() and prediction.shape[-1] == 1:
            prediction = prediction.squeeze(-1)
        return self.running.mean().to(cost) + self.running.scale().to(cost) * prediction

    def loss(self, cost: Tensor, baseline: Tensor) -> Tensor:
        """Return the squared error in units of the running deviation."""
        return ((cost - baseline) / self.running.scale().to(cost)).square()

    def update(self, cost: Tensor, weight: Tensor) -> None:
        """Move the running mean and deviation towards these costs."""
        self.running.update(cost, weight)


class SelfCritic(Baseline):
    """The cost of the most probable value, evaluated beside the draws in a row of weight 0.

    Rennie, Marcheret, Mroueh, Ross and Goel (2017), Self-Critical Sequence Training for Image Captioning.
    """

    counterfactual_rows = 1

    def __init__(self) -> None:
        super().__init__()

    def counterfactual(self, q: Distribution) -> Tensor:
        """Return the mode of ``q``, ``[1, *batch, *event]``."""
        if is_bernoulli(q):  # torch's mode is NaN at probability 1/2
            logits = logits_of(q)
            return (logits > 0).to(logits.dtype)[None].detach()
        try:
            mode = q.mode
        except NotImplementedError as error:
            raise EstimatorError(
                f"SelfCritic needs the mode of {type(q).__name__}, which torch does not have"
            ) from error
        return mode[None].detach()

    def forward(self, draw: Draw, cost: Tensor) -> Tensor:
        """Return the cost of the counterfactual row, ``[1, *batch]``."""
        return cost[-1:]
