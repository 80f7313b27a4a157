"""Deskewing: handwriting straightened by the moments of its ink."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vaekit._core import memory_budget


def deskew(pixels: Tensor) -> Tensor:
    r"""Shear each image horizontally until its ink is upright, and center it.

    The ink is the mass of an image, with mean :math:`m` and covariance :math:`\Sigma` over columns :math:`u` and rows
    :math:`v`. The pixel at :math:`(u, v)` from the center is read, bilinearly, at

    .. math:: (m_u + u + \Sigma_{uv} \Sigma_{vv}^{-1} v, \; m_v + v),

    so that columns and rows are uncorrelated. The slant does not depend on the digit, but varies more between images
    than some digits differ. With deskewing, clusters correspond to digits rather than to slants.

    LeCun, Bottou, Bengio and Haffner (1998), Gradient-based learning applied to document recognition (section III.A).

    Parameters
    ----------
    pixels : Tensor, shape (images, channels, height, width)
        Gray levels of light ink on a dark (0) background, uint8. Channels move together, by the moments of their sum.
        An image without ink is unchanged.

    Returns
    -------
    Tensor
        Deskewed images, uint8 of the same shape.

    Examples
    --------
    >>> slanted = torch.eye(5, dtype=torch.uint8)[None, None]  # a diagonal stroke
    >>> deskew(slanted)[0, 0].tolist()[1]
    [0, 0, 1, 0, 0]
    """
    return torch.cat([_deskew(part) for part in pixels.split(memory_budget.CHUNK_IMAGES)])


def _deskew(pixels: Tensor) -> Tensor:
    images = pixels.float()
    height, width = images.shape[-2:]
    v, u = torch.arange(height) - (height - 1) / 2, torch.arange(width) - (width - 1) / 2
    ink = images.sum(1)
    mass = ink.sum((1, 2), keepdim=True)
    ink = ink / mass.clamp_min(1)
    mean_u, mean_v = (ink.sum(1) * u).sum(1), (ink.sum(2) * v).sum(1)  # [images]
    from_u, from_v = u - mean_u[:, None], v - mean_v[:, None]  # [images, width], [images, height]
    variance = (ink.sum(2) * from_v.square()).sum(1)
    covariance = torch.einsum("nvu,nv,nu->n", ink, from_v, from_u)
    slant = torch.where(variance > 0, covariance / variance, 0)  # a level stroke of one row has no slant
    read_u = mean_u[:, None, None] + u + slant[:, None, None] * v[:, None]
    read_v = (mean_v[:, None, None] + v[:, None]).expand_as(read_u)
    grid = torch.stack([2 * read_u / width, 2 * read_v / height], -1)  # -1 and 1 are the outer edges
    return F.grid_sample(images, grid, align_corners=False).round().to(torch.uint8)
