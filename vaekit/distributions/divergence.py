"""KL divergence, analytic if torch has a formula."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions.kl import kl_divergence


def kl_or_estimate(q: Distribution, p: Distribution, value: Tensor) -> Tensor:
    """Return KL(q || p) if torch has a formula, otherwise its estimate at a sample ``value`` of ``q``."""
    analytic = analytic_divergence(q, p)
    return q.log_prob(value) - p.log_prob(value) if analytic is None else analytic


def analytic_divergence(q: Distribution, p: Distribution) -> Tensor | None:
    """Return KL(q || p), or None if torch has no formula."""
    if len(p.batch_shape) < len(q.batch_shape):
        # torch's KL of Bernoulli variables does not broadcast
        p = p.expand(torch.broadcast_shapes(p.batch_shape, q.batch_shape))
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return None
