"""Distributions that ``torch.distributions`` lacks."""

from vaekit.distributions.counts import NegativeBinomial, ZeroInflated

__all__ = ["NegativeBinomial", "ZeroInflated"]
