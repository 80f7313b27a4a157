"""Evidence of a trained model for the label of each cell: two predictors, and the separation of the types."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit.batch import Batch
from vaekit.diagnostics.usage import coordinates
from vaekit.distributions.divergence import analytic_divergence
from vaekit.models import VAE
from vaekit.models.evaluation_mode import evaluation_mode

SMALLEST = 1e-12  # probability whose logarithm is finite


class LabelEvidence(NamedTuple):
    """Result of :func:`label_evidence`.

    Attributes
    ----------
    probabilities : ndarray, shape (cells, labels)
        Probability of each label before calibration.
    separation : ndarray, shape (cells,)
        Separation of the most probable label from the nearest other one; infinite for a model whose latents do not
        depend on the label through their prior alone.
    points : ndarray, shape (cells, dimensions)
        Coordinates of the cells in latent space.
    """

    probabilities: np.ndarray
    separation: np.ndarray
    points: np.ndarray


def label_evidence(model: VAE, batches: Iterable[Batch]) -> LabelEvidence:
    r"""Return the evidence of a model with a label latent y for the label of each cell.

    The probability of a label is the mean of two predictors: the posterior of y, and the one of the prior components of
    its children z, of which :math:`D_y = \mathrm{KL}(q(z | x) \,\|\, p(z | y))` is the distance of the cell.

    .. math:: p_y = \tfrac12\, q(y | x) + \tfrac12\, \mathrm{softmax}_y(\log p(y) - D_y), \qquad
              s = \Big(\min_{y \ne \hat y} \sqrt{D_y} - \sqrt{D_{\hat y}}\Big) \Big/ \bar\sigma^2

    with the most probable label :math:`\hat y` and the mean posterior variance :math:`\bar\sigma^2` of z. The
    separation s compares distances of types in units of the posterior. Unlike probabilities it does not saturate: cells
    of another technology may have a probability of 1 for the nearest type, although two types are nearly as near.

    Parameters
    ----------
    model : VAE
        Model with a label latent.
    batches : Iterable[Batch]
        Mini-batches of cells.
    """
    name = model.label_latent
    assert name is not None  # checked by the callers
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    with evaluation_mode(model):
        for batch in batches:
            h = model.networks.encode(batch.to(model.device))
            posteriors = model.networks.posteriors(h)
            summaries = {each: model.latents[each].summary(q) for each, q in posteriors.items()}
            probabilities = summaries[name].double()
            children = _normal_children(model, name)
            separation = torch.full_like(probabilities[:, 0], torch.inf)
            if children:
                divergence = _divergences(model, name, children, posteriors, h)
                prior = model.latents[name].summary(model.networks.prior(name, {}, h)).double().log()
                probabilities = (probabilities + (prior - divergence).softmax(-1)) / 2
                variance = torch.cat([posteriors[child].variance for child in children], -1).double().mean(-1)
                separation = _separation(probabilities, divergence.clamp_min(0).sqrt()) / variance
            points = coordinates(model, summaries).double()
            parts.append((probabilities.cpu(), separation.cpu(), points.cpu()))
    return LabelEvidence(*(torch.cat(part).numpy() for part in zip(*parts, strict=True)))


def _normal_children(model: VAE, name: str) -> list[str]:
    """Return the latents whose prior components are a predictor of the label ``name``."""
    if model.latents[name].parents:
        return []
    return [
        child
        for child, latent in model.latents.items()
        if latent.parents == (name,) and not latent.posterior_parents and latent.has_normal_posterior
    ]


def _divergences(model: VAE, name: str, children: list[str], posteriors: dict[str, Distribution], h: Tensor) -> Tensor:
    """Return the KL divergence of the children from their prior given each label, ``[batch, labels]``."""
    size = model.latents[name].size
    labels = torch.eye(size, dtype=h.dtype, device=h.device)[:, None, None]  # [labels, 1, 1, labels]
    total = h.new_zeros(size, len(h), dtype=torch.float64)
    for child in children:
        kl = analytic_divergence(posteriors[child], model.networks.prior(child, {name: labels}, h))
        assert kl is not None  # both are normal
        total += kl
    return total.T


def _separation(probabilities: Tensor, distances: Tensor) -> Tensor:
    """Return the distance of the nearest other label minus that of the most probable one, at least 0."""
    best = probabilities.argmax(-1, keepdim=True)
    nearest_other = distances.scatter(-1, best, torch.inf).amin(-1)
    return (nearest_other - distances.gather(-1, best)[:, 0]).clamp_min(0)
