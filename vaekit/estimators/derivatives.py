"""Derivatives of second and higher order, and gradients that ignore the caller's factors.

A correction ``coefficient * (score - score.detach())`` is correct to first order. It is correct to every order as
``coefficient * likelihood_ratio(log_prob)`` if the coefficient keeps the gradient of the cost: the product of
``q / q.detach()`` and the cost, weighted by ``q.detach()``, is the sum or the mean under q itself.

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
    """Return ``value`` with its gradient replaced by the gradient of ``cost``."""
    return value.detach() + (cost - cost.detach()) if cost.requires_grad else value.detach()


class FirstOrder:
    """Marks of gradients that are correct to first order only: a second derivative raises an error.

    Errors are raised only after :meth:`close`. An estimator that differentiates its own estimate within the step may
    use the second derivative as an approximation.
    """

    def __init__(self) -> None:
        self._closed = False

    def close(self) -> None:
        """Reject second derivatives from now on."""
        self._closed = True

    def mark(self, value: Tensor, message: str, *sources: Tensor) -> Tensor:
        """Return ``value`` with a gradient that cannot be differentiated with respect to the inputs of ``sources``.

        Parameters
        ----------
        value : Tensor
            Any tensor.
        message : str
            Text of the error.
        *sources : Tensor
            Tensors that influence the gradient of ``value`` but do not appear in its graph.
        """
        # torch.compile rejects a tensor that is an argument twice
        views = (source.view_as(source) if source is value else source for source in sources)
        sources = tuple(source for source in views if is_differentiated(source))
        function = _Marked if torch.compiler.is_compiling() else _MarkedBothWays
        return function.apply(value, self, message, *sources) if sources else value

    def guard(self, gradient: Tensor, message: str, sources: tuple[Tensor, ...]) -> Tensor:
        """Return the gradient, connected to ``sources`` by a node that raises an error if it is differentiated."""
        if not (self._closed and torch.is_grad_enabled()):
            return gradient
        return gradient + _Reject.apply(message, *sources).to(gradient.dtype)


class _Marked(torch.autograd.Function):
    """The identity in ``value``, whose gradient is guarded once the marks are closed."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, marks: FirstOrder, message: str, *sources: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, ctx.marks, ctx.message, *sources = inputs
        ctx.save_for_backward(*sources)
        if not torch.compiler.is_compiling():
            ctx.save_for_forward(*sources)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        sources = ctx.saved_tensors
        return (ctx.marks.guard(gradients[0], ctx.message, sources), None, None, *[None] * len(sources))


class _MarkedBothWays(_Marked):
    """Like ``_Marked``, with derivatives in forward mode, which torch.compile does not support."""

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        # the tangent is computed with the value, so it is guarded before the marks are closed
        return tangents[0].clone() + _Reject.apply(ctx.message, *ctx.saved_tensors).to(tangents[0].dtype)


class _Reject(torch.autograd.Function):
    """Zero; its derivative by any source raises an error."""

    generate_vmap_rule = True

    @staticmethod
    def forward(message: str, *sources: Tensor) -> Tensor:
        return sources[0].new_zeros(())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.message = inputs[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        raise EstimatorError(ctx.message)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        raise EstimatorError(ctx.message)


def learning_term(loss: Tensor, follow_scale: bool) -> Tensor:
    """Return a zero-valued term that trains the parameters of ``loss``, regardless of the caller's factors.

    Parameters
    ----------
    loss : Tensor
        Loss that is averaged with the weights that the term receives in the expectation.
    follow_scale : bool
        Whether the gradient scales with the size, not the sign, of the caller's factors. Trainers undo the factors of
        a gradient scaler and of gradient accumulation. If False, it is the gradient of the mean loss.
    """
    return _Learning.apply(loss, follow_scale)


class _Learning(torch.autograd.Function):
    """Zero, with the gradient of :func:`learning_term`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(loss: Tensor, follow_scale: bool) -> Tensor:
        return torch.zeros_like(loss)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.follow_scale = inputs[1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        weight = gradients[0].detach().abs()
        if not ctx.follow_scale:
            weight = weight / weight.sum().clamp_min(torch.finfo(weight.dtype).tiny)
        return weight, None
