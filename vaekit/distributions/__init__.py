"""Distributions that ``torch.distributions`` lacks, or has without pathwise gradients."""

from vaekit.distributions.continuous_bernoulli import ContinuousBernoulli
from vaekit.distributions.count_distributions import NegativeBinomial, ZeroInflated
from vaekit.distributions.log_dirichlet import LogDirichlet
from vaekit.distributions.log_gamma import LogGamma
from vaekit.distributions.mixture import MixtureSameFamily
from vaekit.distributions.one_hot import OneHotCategorical
from vaekit.distributions.truncated_normal import TruncatedNormal
from vaekit.distributions.von_mises import VonMises

__all__ = [
    "ContinuousBernoulli",
    "LogDirichlet",
    "LogGamma",
    "MixtureSameFamily",
    "NegativeBinomial",
    "OneHotCategorical",
    "TruncatedNormal",
    "VonMises",
    "ZeroInflated",
]
