"""Likelihoods of UMI counts: the mean is the cell's size factor times a composition over the genes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent
from torch.distributions import Poisson as PoissonDistribution

from vaekit.batch import Batch
from vaekit.distributions import NegativeBinomial as NegativeBinomialDistribution
from vaekit.distributions import ZeroInflated
from vaekit.exceptions import DataError
from vaekit.likelihoods import sparse
from vaekit.likelihoods.base import Likelihood


class _Counts(Likelihood):
    """What the count likelihoods share: ``log mean = log size_factor + log_softmax(head(h))``."""

    def build(self, in_features: int, features: int) -> None:
        """Make the head of the composition (see the base class)."""
        self.composition = nn.Linear(in_features, features)

    def check(self, batch: Batch) -> None:
        """Raise an error if the data have no size factors (see the base class)."""
        if batch.size_factor is None:
            raise DataError(
                f"the likelihood {type(self).__name__} describes counts with size factors, which these data (images?) "
                "do not have; Bernoulli and Gaussian describe pixels"
            )

    def log_mean(self, h: Tensor, batch: Batch) -> Tensor:
        """Return the log of the expected counts, ``[*rows, batch, genes]``."""
        self.check(batch)
        assert batch.size_factor is not None  # checked
        return self.composition(h).log_softmax(-1) + batch.size_factor.log()

    def encoder_input(self, batch: Batch) -> Tensor:
        """Return ``log(1 + counts)``, which tames their range."""
        return batch.x.log1p()

    @torch.no_grad()
    def start_at(self, mean: Tensor) -> None:
        """Start from the mean composition; a gene that no cell has gets half of the smallest positive mean."""
        floor = mean[mean > 0].min() / 2 if bool((mean > 0).any()) else torch.ones(())
        self.composition.bias.copy_(mean.clamp_min(floor).log())


class Poisson(_Counts):
    """Poisson counts: the variance is the mean."""

    def forward(self, h: Tensor, batch: Batch) -> Distribution:
        """Return independent Poisson counts (see the base class)."""
        return Independent(PoissonDistribution(self.log_mean(h, batch).exp(), validate_args=False), 1)


class NegativeBinomial(_Counts):
    """Negative binomial counts with one inverse dispersion a gene."""

    def build(self, in_features: int, features: int) -> None:
        """Make the head, and the dispersions (see the base class)."""
        super().build(in_features, features)
        self.log_inverse_dispersion = nn.Parameter(torch.zeros(features))

    def forward(self, h: Tensor, batch: Batch) -> Distribution:
        """Return independent negative binomial counts (see the base class)."""
        return Independent(NegativeBinomialDistribution(self.log_mean(h, batch), self.log_inverse_dispersion), 1)

    def log_prob(self, h: Tensor, batch: Batch) -> Tensor:
        """Return log p(x | latents), by way of the non-zero counts (see the base class)."""
        self.check(batch)
        return sparse.log_prob(self.composition(h), batch, self.log_inverse_dispersion)


class ZeroInflatedNegativeBinomial(NegativeBinomial):
    """Negative binomial counts with a probability of additional zeros that depends on gene and cell."""

    def build(self, in_features: int, features: int) -> None:
        """Make the heads; additional zeros start rare (see the base class)."""
        super().build(in_features, features)
        self.gate = nn.Linear(in_features, features)
        nn.init.constant_(self.gate.bias, -3.0)

    def forward(self, h: Tensor, batch: Batch) -> Distribution:
        """Return independent zero-inflated counts (see the base class)."""
        counts = NegativeBinomialDistribution(self.log_mean(h, batch), self.log_inverse_dispersion)
        return Independent(ZeroInflated(counts, self.gate(h)), 1)

    def log_prob(self, h: Tensor, batch: Batch) -> Tensor:
        """Return log p(x | latents), by way of the non-zero counts (see the base class)."""
        self.check(batch)
        return sparse.log_prob(self.composition(h), batch, self.log_inverse_dispersion, self.gate(h))
