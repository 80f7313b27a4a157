"""The contract of an estimator: draw values at a node, then correct the gradient that they do not carry.

With ``q`` a node's distribution, ``S`` its number of rows and ``*batch`` the batch shape of ``q``::

    draw(q)                -> Draw      values [S, *batch, *event] and weights that sum to 1 over the rows
    correction(draw, cost) -> Tensor    [S, *batch], forward value 0

The gradient of ``(weight * (cost + correction)).sum(0)`` is the estimate of the gradient of E_q[cost].
"""

from __future__ import annotations

import contextlib
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit._core.components import Component
from vaekit.distributions.precise import precise
from vaekit.exceptions import EstimatorError


class NodeSample(NamedTuple):
    """What an estimator drew at one node.

    Attributes
    ----------
    value
        ``[rows, *batch, *event]``; carries the pathwise gradient, where there is one.
    weight
        ``[rows, *batch]`` or broadcastable to it (the axis of rows always in full); sums to 1 over the rows.
        A row of weight 0 is a counterfactual. Carries a gradient where a row's share depends on parameters.
    log_prob
        ``[rows, *batch]``, log-density at the value with the value detached; None where it is not needed.
    q
        The distribution that was drawn from.
    noise
        What ``correction`` needs again.
    context
        ``[*batch, features]``, what learned baselines see; put in by the graph.
    outer
        Weights of the rows of the nodes before this one, the closest first, each ``[its rows, *rows before, *batch]``;
        put in by the graph.
    completed
        The draw before auxiliary samples of impossible states were added to it (see ``impossible``); put in by the
        graph.
    equal_weights
        Whether all weights are known, without a look at them, to be ``1 / rows``: then no row needs masking.
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


class Estimator(Component, nn.Module, ABC):
    """Estimates the gradient of an expectation with respect to the parameters of one node's distribution.

    Parameters
    ----------
    num_samples
        Independent draws, one row each.

    Attributes
    ----------
    requires_differentiable_cost
        Whether the gradient travels through the value, so that a cost without a path to it is an error.
    unbiased_value
        Whether the expected forward value is the true expectation (a relaxation's is not).
    joint
        Whether it can draw one row on an axis of joint trajectories.
    unbiased
        Whether its gradient is unbiased for every cost that it accepts.
    common_random_numbers
        Whether its gradient is a difference between rows: deeper nodes then share their noise between these.
    uses_auxiliary_samples
        Whether its gradient uses the costs of its rows of weight 0: one that is not finite then shows in the gradient.
    stick_the_landing
        Whether it takes the score out of a cost that holds log q at the value (see ``Pathwise``).
    higher_order
        Whether derivatives of its gradient are right too; where they are not, they are rejected.
    differentiates_cost
        Whether it takes derivatives of the cost itself, by ``torch.autograd.grad`` inside the step.
    follows_scale
        Whether the gradient of learned parts follows the size of the loss that the result becomes part of: for a
        trainer that scales gradients back, such as ``torch.amp.GradScaler``. If not, nothing that the caller multiplies
        the result with reaches them.
    """

    requires_differentiable_cost: ClassVar[bool] = False
    unbiased_value: ClassVar[bool] = True
    supports_joint_samples: ClassVar[bool] = True
    unbiased: ClassVar[bool] = True
    common_random_numbers: ClassVar[bool] = False
    uses_auxiliary_samples: ClassVar[bool] = False
    stick_the_landing: bool = False
    higher_order: bool = False
    differentiates_cost: ClassVar[bool] = False
    follows_scale: bool = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "draw" in cls.__dict__:
            cls.sample = _in_full_precision(cls.sample)  # type: ignore[method-assign]

    def __init__(self, num_samples: int = 1) -> None:
        super().__init__()
        if num_samples < 1:
            raise EstimatorError(f"{type(self).__name__}: num_samples is {num_samples}, it must be at least 1")
        self.num_samples = num_samples

    @classmethod
    @abstractmethod
    def supports(cls, q: Distribution) -> bool:
        """Tell whether this estimator can serve a node with the distribution ``q``."""

    def num_evaluations(self, q: Distribution) -> int:
        """Return the number of rows that ``draw(q)`` will have: cost evaluations an entry of the batch."""
        return self.num_samples

    @abstractmethod
    def sample(
        self, q: Distribution, sample_shape: torch.Size | None = None, common_noise_dims: tuple[int, ...] = ()
    ) -> NodeSample:
        """Draw values from ``q``, in at least float32, also under autocast (every subclass's method does).

        Parameters
        ----------
        q
            Distribution with batch shape ``[*batch]``.
        sample_shape
            None: ``[self.num_samples]``. The empty shape: ``q`` has an axis of rows already (joint
            trajectories), and one value is drawn for each of them.
        common_noise_dims
            Axes of the value, rows of earlier nodes, along which the noise is to be common, where this can be had: the
            costs of these rows are compared, and differ less so.
        """

    def build(self, context_features: int, size: int, ancestor_features: int = 0) -> None:
        """Make the layers of learned parts, once a model knows the sizes; here, nothing.

        Parameters
        ----------
        context_features
            Width of the context.
        size
            Number of values of the node's event, flattened.
        ancestor_features
            The same of the nodes that its distribution depends on, together.
        """

    def update_schedule(self, progress: float) -> None:
        """Take note of how far training is, in 0..1: schedules follow it; here, nothing."""

    def correction(self, draw: NodeSample, cost: Tensor) -> Tensor:
        """Return a term with value 0 whose gradient is what the values do not carry; here, nothing.

        Parameters
        ----------
        draw
            What ``draw`` returned.
        cost
            ``[rows, *batch]``: its value is the cost that this node can influence, its gradient that of the
            whole remaining graph.
        """
        return cost.new_zeros(())

    @property
    def has_correction(self) -> bool:
        """Whether :meth:`correction` has anything to return."""
        return type(self).correction is not Estimator.correction

    @property
    def is_stateful(self) -> bool:
        """Whether :meth:`update` has anything to do."""
        return False

    def update(self, cost: Tensor, weight: Tensor) -> None:
        """Learn from the costs of a step, after all corrections were worked out; here, nothing.

        Parameters
        ----------
        cost
            ``[*rows, *batch]``, what entered :meth:`correction`.
        weight
            Of each row, the product over this node and those before it, broadcastable to ``cost``.
        """

    def shape(self, sample_shape: torch.Size | None) -> torch.Size:
        """Return the sample shape to draw with: the given one, or ``[num_samples]``."""
        return torch.Size([self.num_samples]) if sample_shape is None else sample_shape


def _in_full_precision(draw: Callable[..., NodeSample]) -> Callable[..., NodeSample]:
    """Return a ``draw`` that takes its distribution in at least float32, and computes in that."""

    @functools.wraps(draw)
    def wrapper(self: Estimator, q: Distribution, *args: Any, **kwargs: Any) -> NodeSample:
        q = precise(q)
        kinds = [kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
        if not kinds:
            return draw(self, q, *args, **kwargs)
        with contextlib.ExitStack() as stack:
            for kind in kinds:
                stack.enter_context(torch.autocast(kind, enabled=False))
            return draw(self, q, *args, **kwargs)

    return wrapper


def average_outer(draw: NodeSample, value: Tensor) -> Tensor:
    """Average ``[rows, *rows of earlier nodes, *batch]`` over the rows of those nodes that all share this draw.

    A correction that multiplies the derivative of a draw by costs must average these costs first: there is one
    derivative for all of them.
    """
    for axis, weight in enumerate(draw.outer, start=1):
        if value.shape[axis] > 1 and draw.value.shape[axis] == 1:
            value = (weight * torch.where(weight != 0, value, 0)).sum(axis, keepdim=True)
    return value


def average_batch(draw: NodeSample, value: Tensor) -> Tensor:
    """Average ``[rows, *rows of earlier nodes, *batch]`` over the axes of the batch that all share this draw.

    The draw has size 1 there. A control variate whose derivative is taken inside the step must be one for all these
    entries: there is one derivative, and each entry of the estimate receives it.
    """
    first = 1 + len(draw.outer)
    axes = [axis for axis in range(first, value.dim()) if value.shape[axis] > 1 and draw.value.shape[axis] == 1]
    return value.mean(axes, keepdim=True) if axes else value


def uniform_weight(value: Tensor, q: Distribution, dtype: torch.dtype | None = None) -> Tensor:
    """Return weights ``1 / rows``, ``[rows, 1, ..., 1]``, for values ``[rows, *batch, *event]``."""
    rows, rank = value.shape[0], value.dim() - len(q.event_shape)
    dtype = dtype or (value.dtype if value.is_floating_point() else torch.get_default_dtype())
    return torch.full((rows, *[1] * (rank - 1)), 1.0 / rows, dtype=dtype, device=value.device)


def describe_distribution(q: Distribution) -> str:
    """Name a distribution for an error message.

    Examples
    --------
    >>> from torch.distributions import Independent, Normal
    >>> describe(Independent(Normal(torch.zeros(3), torch.ones(3)), 1))
    'Independent(Normal)'
    """
    base = getattr(q, "base_dist", None)
    return f"{type(q).__name__}({describe_distribution(base)})" if base is not None else type(q).__name__
