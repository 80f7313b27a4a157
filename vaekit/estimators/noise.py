"""Gumbel and logistic noise of discrete variables, unconditional or conditional on the discrete value."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def common_noise_shape(shape: torch.Size, common_dims: tuple[int, ...]) -> list[int]:
    """Return a shape with size 1 in the given dimensions, along which noise of this shape is common.

    Common random numbers lower the variance of a difference of costs.
    """
    return [1 if dim in common_dims else size for dim, size in enumerate(shape)]


def gumbel(like: Tensor, common_dims: tuple[int, ...] = ()) -> Tensor:
    """Sample standard Gumbel noise: minus the log of an exponential variable, which must not be 0."""
    exponential = like.new_empty(common_noise_shape(like.shape, common_dims)).exponential_()
    return -exponential.clamp_min(torch.finfo(like.dtype).tiny).log()


def logistic(like: Tensor, common_dims: tuple[int, ...] = ()) -> Tensor:
    """Sample standard logistic noise: the difference of two Gumbel variables."""
    return gumbel(like, common_dims) - gumbel(like, common_dims)


def conditional_gumbel(logits: Tensor, one_hot: Tensor, common_dims: tuple[int, ...] = ()) -> Tensor:
    r"""Sample ``log_softmax(logits) + gumbel`` conditional on its argmax.

    The largest entry of normalized perturbed logits has the standard Gumbel distribution for any argmax. The other
    entries are Gumbel variables truncated at this value:

    .. math:: t = g_k, \qquad z_k = t, \qquad z_i = t - \log(1 + e^{t - g_i} / \pi_i) \quad (i \ne k)

    Maddison and Tarlow (2017), Gumbel Machinery; Tucker, Mnih, Maddison, Lawson and Sohl-Dickstein (2017), REBAR.

    Parameters
    ----------
    logits : Tensor, shape (*shape, K)
        Logits, normalized or not; -inf for an impossible category, whose perturbed logit is -inf.
    one_hot : Tensor, shape (..., *shape, K)
        The argmax as a one-hot value. The result has its leading dimensions.
    common_dims : tuple of int
        Dimensions of the result along which the noise is common.

    Returns
    -------
    Tensor, shape (..., *shape, K)
        Perturbed logits, differentiable in the logits. The entry of ``one_hot`` is strictly the largest.
    """
    noise = gumbel(logits.expand(torch.broadcast_shapes(logits.shape, one_hot.shape)), common_dims)
    is_selected = one_hot > 0
    top = torch.where(is_selected, noise, 0).sum(-1, keepdim=True)
    gap = _softplus(top - noise - logits.log_softmax(-1))
    # the difference would lose a gap below the spacing of floats around `top`: a tie for argmax
    gap = gap.clamp(min=top.abs() * (2 * torch.finfo(top.dtype).eps) + torch.finfo(top.dtype).tiny)
    return torch.where(is_selected, top, top - gap)


def conditional_logistic(logits: Tensor, value: Tensor, common_dims: tuple[int, ...] = ()) -> Tensor:
    r"""Sample ``logits + logistic`` conditional on its sign: positive if ``value`` is 1, negative if it is 0.

    .. math:: z = s \log(1 + e^l (1 + e^{s \phi})), \quad s = 2 b - 1

    for logits :math:`\phi`, value :math:`b` and logistic noise :math:`l`.

    Tucker, Mnih, Maddison, Lawson and Sohl-Dickstein (2017), REBAR.

    Parameters
    ----------
    logits : Tensor, shape (*shape)
        Logits of binary variables.
    value : Tensor, shape (..., *shape)
        Zeros and ones. The result has its leading dimensions.
    common_dims : tuple of int
        Dimensions of the result along which the noise is common.

    Returns
    -------
    Tensor, shape (..., *shape)
        Perturbed logits, differentiable in the logits; never 0.
    """
    noise = logistic(logits.expand(torch.broadcast_shapes(logits.shape, value.shape)), common_dims)
    size = _softplus(noise + _softplus(torch.where(value > 0, logits, -logits)))
    size = size.clamp_min(torch.finfo(size.dtype).tiny)
    return torch.where(value > 0, size, -size)


def conditional_noise(logits: Tensor, value: Tensor, binary: bool, common_dims: tuple[int, ...] = ()) -> Tensor:
    """Sample perturbed logits conditional on the value of binary or one-hot variables."""
    return (conditional_logistic if binary else conditional_gumbel)(logits, value, common_dims)


def to_probs(logits: Tensor, binary: bool) -> Tensor:
    """Return the sigmoid of binary variables, or the softmax of one-hot variables."""
    return logits.sigmoid() if binary else logits.softmax(-1)


def to_discrete(perturbed: Tensor, binary: bool) -> Tensor:
    """Return the discrete value of perturbed logits: the sign of binary variables, or the argmax of one-hot ones."""
    if binary:
        return (perturbed > 0).to(perturbed.dtype)
    return torch.zeros_like(perturbed).scatter_(-1, perturbed.argmax(-1, keepdim=True), 1.0)


def zero_with_gradient(logits: Tensor) -> Tensor:
    """Return zeros that pass their gradient to ``logits``, except to infinite ones."""
    return torch.where(logits.isfinite(), logits - logits.detach(), 0)


def jacobian_product(mean: Tensor, direction: Tensor, binary: bool) -> Tensor:
    """Return ``J(mean) direction`` for the Jacobian of the sigmoid or the softmax whose value is ``mean``."""
    return mean * (direction - (mean * direction if binary else (mean * direction).sum(-1, keepdim=True)))


def _softplus(x: Tensor) -> Tensor:
    """Return ``log(1 + exp(x))``, also accurate above 20, where torch's softplus returns x."""
    return -F.logsigmoid(-x)
