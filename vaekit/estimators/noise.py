"""Noise behind discrete variables: Gumbel and logistic draws, also given the discrete value that they led to."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def common_noise_shape(shape: torch.Size, shared: tuple[int, ...]) -> list[int]:
    """Return a shape with size 1 on the shared axes: noise of that shape is common to all along them.

    Costs that are subtracted from each other differ less if all else that is random is the same.
    """
    return [1 if axis in shared else size for axis, size in enumerate(shape)]


def gumbel(like: Tensor, shared: tuple[int, ...] = ()) -> Tensor:
    """Draw standard Gumbel noise: minus the log of an exponential variable, which must not be 0."""
    exponential = like.new_empty(common_noise_shape(like.shape, shared)).exponential_()
    return -exponential.clamp_min(torch.finfo(like.dtype).tiny).log()


def logistic(like: Tensor, shared: tuple[int, ...] = ()) -> Tensor:
    """Draw standard logistic noise: the difference of two Gumbel variables."""
    return gumbel(like, shared) - gumbel(like, shared)


def conditional_gumbel(logits: Tensor, one_hot: Tensor, shared: tuple[int, ...] = ()) -> Tensor:
    r"""Draw ``log_softmax(logits) + gumbel`` given that its argmax is that of ``one_hot``.

    The largest entry of normalised perturbed logits has the standard Gumbel distribution whichever it is, and
    the others are Gumbel variables cut off there:

    .. math:: t = g_k, \qquad z_k = t, \qquad z_i = t - \log(1 + e^{t - g_i} / \pi_i) \quad (i \ne k)

    Parameters
    ----------
    logits
        ``[*shape, K]``, normalised or not; -inf for an impossible category, whose perturbed logit is -inf.
    one_hot
        ``[*shape, K]`` or with more axes in front, which the result has too.
    shared
        Axes of the result along which the noise is common.

    Returns
    -------
    Tensor
        Differentiable in the logits; the entry of ``one_hot`` is strictly the largest.

    Notes
    -----
    Maddison and Tarlow (2017), Gumbel Machinery; Tucker, Mnih, Maddison, Lawson and Sohl-Dickstein (2017), REBAR.
    """
    noise = gumbel(logits.expand(torch.broadcast_shapes(logits.shape, one_hot.shape)), shared)
    chosen = one_hot > 0
    top = torch.where(chosen, noise, 0).sum(-1, keepdim=True)
    gap = _softplus(top - noise - logits.log_softmax(-1))
    # a gap below the spacing of numbers around `top` would be lost in the difference: a tie for argmax
    gap = gap.clamp(min=top.abs() * (2 * torch.finfo(top.dtype).eps) + torch.finfo(top.dtype).tiny)
    return torch.where(chosen, top, top - gap)


def conditional_logistic(logits: Tensor, value: Tensor, shared: tuple[int, ...] = ()) -> Tensor:
    r"""Draw ``logits + logistic`` given that it is positive where ``value`` is 1 and negative where it is 0.

    .. math:: z = s \log(1 + e^l (1 + e^{s \phi})), \quad s = 2 b - 1

    for logits :math:`\phi`, value :math:`b` and logistic noise :math:`l`.

    Parameters
    ----------
    logits
        ``[*shape]``.
    value
        ``[*shape]`` of zeros and ones, or with more axes in front, which the result has too.
    shared
        Axes of the result along which the noise is common.

    Returns
    -------
    Tensor
        Differentiable in the logits; never 0.

    Notes
    -----
    Tucker, Mnih, Maddison, Lawson and Sohl-Dickstein (2017), REBAR.
    """
    noise = logistic(logits.expand(torch.broadcast_shapes(logits.shape, value.shape)), shared)
    size = _softplus(noise + _softplus(torch.where(value > 0, logits, -logits)))
    size = size.clamp_min(torch.finfo(size.dtype).tiny)
    return torch.where(value > 0, size, -size)


def zero_with_gradient(logits: Tensor) -> Tensor:
    """Return zeros that pass a gradient on to ``logits``, save where these are infinite."""
    return torch.where(logits.isfinite(), logits - logits.detach(), 0)


def jacobian_product(mean: Tensor, direction: Tensor, binary: bool) -> Tensor:
    """Return ``J(mean) direction`` for the Jacobian of the sigmoid or the softmax that has the value ``mean``."""
    return mean * (direction - (mean * direction if binary else (mean * direction).sum(-1, keepdim=True)))


def _softplus(x: Tensor) -> Tensor:
    """Return ``log(1 + exp(x))``, also accurate above 20, where torch's softplus turns to its asymptote."""
    return -F.logsigmoid(-x)
