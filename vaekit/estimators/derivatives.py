"""Derivatives beyond the first, and gradients that no factor of the caller's may change.

A correction ``coefficient * (score - score.detach())`` is right to first order. Where it reads
``coefficient * likelihood_ratio(log_prob)``, and the coefficient keeps the gradient of the cost, it is right to every
order: ``q / q.detach()`` times the cost, weighted by ``q.detach()``, is the sum or the mean under q itself.

Foerster, Farquhar, Al-Shedivat, Rocktaeschel, Xing and Whiteson (2018), DiCE: The Infinitely Differentiable Monte
Carlo Estimator.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vaekit.estimators.func_transforms import is_differentiated
from vaekit.exceptions import EstimatorError


def likelihood_ratio(log_prob: Tensor) -> Tensor:
    """Return ``q(z) / q(z).detach() - 1``: value 0, with the derivatives of the ratio to all orders."""
    return (log_prob - log_prob.detach()).expm1()


def with_gradient_of(value: Tensor, cost: Tensor) -> Tensor:
    """Return ``value`` without its own gradient, and with that of ``cost``."""
    return value.detach() + (cost - cost.detach()) if cost.requires_grad else value.detach()


class FirstOrder:
    """Marks of gradients that are right to first order only: a second derivative is rejected instead of wrong.

    Rejection starts with the call of :meth:`close`: an estimator that differentiates its own estimate, inside the
    step, may take the second derivative for an approximation.
    """

    def __init__(self) -> None:
        self._closed = False

    def close(self) -> None:
        """Reject second derivatives from here on."""
        self._closed = True

    def mark(self, value: Tensor, message: str, *sources: Tensor) -> Tensor:
        """Return ``value``, whose gradient must not be differentiated by anything that ``sources`` depend on.

        Parameters
        ----------
        value
            Any tensor.
        message
            The text of the error.
        *sources
            Tensors whose influence on the gradient of ``value`` is not in its graph.
        """
        # torch.compile does not take a tensor twice
        own = (source.view_as(source) if source is value else source for source in sources)
        sources = tuple(source for source in own if is_differentiated(source))
        function = _Marked if torch.compiler.is_compiling() else _MarkedBothWays
        return function.apply(value, self, message, *sources) if sources else value

    def guard(self, gradient: Tensor, message: str, sources: tuple[Tensor, ...]) -> Tensor:
        """Return the gradient, connected with ``sources`` by a node that rejects to be differentiated."""
        if not (self._closed and torch.is_grad_enabled()):
            return gradient
        return gradient + reject(message, sources).to(gradient.dtype)


class _Marked(torch.autograd.Function):
    """The identity in ``value``, whose gradient is guarded once the marks are closed."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, marks: FirstOrder, message: str, *sources: Tensor) -> Tensor:
        """Return the value."""
        return value.view_as(value)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Store the sources for derivatives in both directions."""
        _, ctx.marks, ctx.message, *sources = inputs
        ctx.save_for_backward(*sources)
        if not torch.compiler.is_compiling():
            ctx.save_for_forward(*sources)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Pass the gradient on, guarded."""
        sources = ctx.saved_tensors
        return (ctx.marks.guard(gradients[0], ctx.message, sources), None, None, *[None] * len(sources))


class _MarkedBothWays(_Marked):
    """The same with derivatives in forward mode, which torch.compile does not follow."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        """Pass the tangent on, guarded at once: it is computed with the value."""
        return tangents[0].clone() + reject(ctx.message, ctx.saved_tensors).to(tangents[0].dtype)


def reject(message: str, sources: tuple[Tensor, ...]) -> Tensor:
    """Return a zero that cannot be differentiated by what ``sources`` depend on."""
    return _Reject.apply(message, *sources)


class _Reject(torch.autograd.Function):
    """Zero, which cannot be differentiated by the tensors it is given."""

    generate_vmap_rule = True

    @staticmethod
    def forward(message: str, *sources: Tensor) -> Tensor:
        """Return zero."""
        return sources[0].new_zeros(())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Store the message."""
        ctx.message = inputs[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Raise: autograd comes here only for a derivative by one of the sources."""
        raise EstimatorError(ctx.message)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        """Raise."""
        raise EstimatorError(ctx.message)


def learning_term(loss: Tensor, follow_scale: bool) -> Tensor:
    """Return a zero-valued term that trains the parameters of ``loss``, regardless of the caller's factors.

    Parameters
    ----------
    loss
        To be minimized; its mean under the weights that the term gets on its way into the result.
    follow_scale
        Whether the gradient follows the size of the caller's factors, though not their sign: that of a gradient
        scaler and of the accumulation of gradients, which the trainer undoes. If not, it is the gradient of the mean
        loss.
    """
    return _Learning.apply(loss, follow_scale)


class _Learning(torch.autograd.Function):
    """Zero, with the gradient of :func:`learning_term`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(loss: Tensor, follow_scale: bool) -> Tensor:
        """Return zeros."""
        return torch.zeros_like(loss)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Store the switch."""
        ctx.follow_scale = inputs[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Remove the sign, and by default the scale, from the weight of each loss."""
        weight = gradients[0].detach().abs()
        if not ctx.follow_scale:
            weight = weight / weight.sum().clamp_min(torch.finfo(weight.dtype).tiny)
        return weight, None
