"""Likelihoods of UMI counts: the mean is the cell's size factor times a composition over the genes."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent
from torch.distributions import Poisson as PoissonDistribution

from vaekit.batch import Batch, DataStatistics
from vaekit.distributions import NegativeBinomial as NegativeBinomialDistribution
from vaekit.distributions import ZeroInflated
from vaekit.exceptions import ConfigError, DataError, did_you_mean
from vaekit.likelihoods.counts import sparse
from vaekit.likelihoods.likelihood import Likelihood
from vaekit.networks.precision import at_least_float32

Dispersion = Literal["gene", "gene-batch", "gene-cell"]


class CountLikelihood(Likelihood):
    """What the count likelihoods share: ``log mean = log size_factor + log_softmax(logits)``.

    Parameters
    ----------
    gene_shift
        Whether each covariate shifts the logit of each gene, too, after the decoder.

    Raises
    ------
    ConfigError
        With ``gene_shift``, once it is part of a model without covariates, or meets data without.
    """

    uses_size_factor = True
    mean_input: Tensor

    def __init__(self, gene_shift: bool = False) -> None:
        super().__init__()
        self.gene_shift = gene_shift

    def build(self, in_features: int, features: int, covariates: int = 0) -> None:
        """Make the head of the composition (see the base class)."""
        self.composition = nn.Linear(in_features, features)
        if self.gene_shift:
            if not covariates:
                raise self._no_covariates()
            self.composition_shift = nn.Parameter(torch.zeros(covariates, features))
        self.register_buffer("mean_input", torch.zeros(features))  # of the encoder, over the training cells

    def check(self, batch: Batch) -> None:
        """Raise an error if the data have no size factors (see the base class)."""
        if batch.size_factor is None:
            raise DataError(
                f"the likelihood {type(self).__name__} describes counts with size factors, which these data (images?) "
                "do not have; Bernoulli and Gaussian describe pixels"
            )

    def _no_covariates(self) -> ConfigError:
        return ConfigError(
            f"{type(self).__name__}: gene_shift=True needs covariates, and there are none: name the batches' column by "
            "data.batch_key (and pass data.covariates to the model), or leave gene_shift out"
        )

    def logits(self, h: Tensor, batch: Batch) -> Tensor:
        """Return the logits of the composition, whose softmax is each gene's expected share of the counts.

        ``[*rows, batch, genes]``; additional zeros and the library size are no part of it.
        """
        logits = at_least_float32(self.composition(h))
        if not self.gene_shift:
            return logits
        if batch.covariates is None:
            raise self._no_covariates()
        return logits + batch.covariates @ self.composition_shift

    def log_mean(self, h: Tensor, batch: Batch) -> Tensor:
        """Return the log of the expected counts, ``[*rows, batch, genes]``."""
        self.check(batch)
        assert batch.size_factor is not None  # checked
        return self.logits(h, batch).log_softmax(-1) + batch.size_factor.log()

    def encoder_input(self, batch: Batch) -> Tensor:
        """Return ``log(1 + counts)``, which tames their range.

        Genes that were not observed take the training mean, and what the others deviate from theirs is divided by the
        share of genes observed: the encoder's first layer sees what it would expect had genes been lost at random.
        """
        x = batch.x.add(1).log_()  # 1 + x is exact for counts, and log is faster than log1p
        if batch.observed is None:
            return x
        observed = batch.observed.to(x.dtype)
        return self.mean_input + (x - self.mean_input) * observed / observed.mean(-1, keepdim=True)

    @torch.no_grad()
    def init_from_data(self, moments: DataStatistics) -> None:
        """Start from the mean composition; a gene that no cell has gets half of the smallest positive mean."""
        mean = moments.mean
        floor = mean[mean > 0].min() / 2 if bool((mean > 0).any()) else torch.ones(())
        self.composition.bias.copy_(mean.clamp_min(floor).log())
        if moments.mean_log1p is not None:
            self.mean_input.copy_(moments.mean_log1p)


class Poisson(CountLikelihood):
    """Poisson counts: the variance is the mean.

    Parameters
    ----------
    gene_shift
        Whether each covariate shifts the logit of each gene, too, after the decoder.

    Raises
    ------
    ConfigError
        With ``gene_shift``, once it is part of a model without covariates, or meets data without.
    """

    def __init__(self, gene_shift: bool = False) -> None:
        super().__init__(gene_shift)

    def forward(self, h: Tensor, batch: Batch) -> Distribution:
        """Return independent Poisson counts (see the base class)."""
        return Independent(PoissonDistribution(self.log_mean(h, batch).exp(), validate_args=False), 1)


class NegativeBinomial(CountLikelihood):
    r"""Negative binomial counts: the variance is ``mean + mean^2 / theta``.

    Parameters
    ----------
    dispersion
        What the inverse dispersion theta depends on: ``"gene"``; ``"gene-batch"``, where its log is a gene's plus
        one of gene and batch; ``"gene-cell"``, a head on the decoder's features, ``[*rows, batch, genes]``.
    gene_shift
        Whether each covariate shifts the logit of each gene, too, after the decoder.

    Raises
    ------
    ConfigError
        If there is no such dispersion; for ``"gene-batch"`` and ``gene_shift``, once it is part of a model without
        covariates, or meets data without batches.
    """

    batch_columns: Tensor

    def __init__(self, dispersion: Dispersion = "gene", gene_shift: bool = False) -> None:
        super().__init__(gene_shift)
        if dispersion not in get_args(Dispersion):
            raise ConfigError(
                f"{type(self).__name__}: dispersion={dispersion!r} not found. "
                f"{did_you_mean(str(dispersion), get_args(Dispersion))}"
            )
        self.dispersion = dispersion

    def build(self, in_features: int, features: int, covariates: int = 0) -> None:
        """Make the head, and the dispersions (see the base class)."""
        super().build(in_features, features, covariates)
        if self.dispersion == "gene-cell":
            self.dispersion_head = nn.Linear(in_features, features)
            nn.init.zeros_(self.dispersion_head.bias)
            return
        self.log_inverse_dispersion = nn.Parameter(torch.zeros(features))
        if self.dispersion == "gene-batch":
            if not covariates:
                raise self._no_batches()
            self.dispersion_shift = nn.Parameter(torch.zeros(covariates, features))
            self.register_buffer("batch_columns", torch.ones(covariates))  # all, until the data tell

    def init_from_data(self, moments: DataStatistics) -> None:
        """Start from the mean composition; learn which covariates are batches (see the base class)."""
        super().init_from_data(moments)
        if self.dispersion == "gene-batch":
            if not moments.num_batches:
                raise self._no_batches()
            self.batch_columns.copy_(torch.arange(len(self.batch_columns)) < moments.num_batches)

    def _no_batches(self) -> ConfigError:
        return ConfigError(
            f"{type(self).__name__}: dispersion='gene-batch' needs batches, and there are none: name their column by "
            "data.batch_key (and pass data.covariates to the model), or use dispersion='gene' or 'gene-cell'"
        )

    def log_theta(self, h: Tensor, batch: Batch) -> Tensor:
        """Return the log inverse dispersions: ``[genes]``, ``[batch, genes]`` or ``[*rows, batch, genes]``."""
        if self.dispersion == "gene-cell":
            return at_least_float32(self.dispersion_head(h))
        if self.dispersion == "gene":
            return self.log_inverse_dispersion
        if batch.covariates is None:
            raise self._no_batches()
        return self.log_inverse_dispersion + (batch.covariates * self.batch_columns) @ self.dispersion_shift

    def forward(self, h: Tensor, batch: Batch) -> Distribution:
        """Return independent negative binomial counts (see the base class)."""
        return Independent(
            NegativeBinomialDistribution(
                log_mean=self.log_mean(h, batch), log_inverse_dispersion=self.log_theta(h, batch)
            ),
            1,
        )

    def log_prob(self, h: Tensor, batch: Batch) -> Tensor:
        """Return log p(x | latents), by way of the non-zero counts (see the base class)."""
        self.check(batch)
        if batch.observed is not None:
            return super().log_prob(h, batch)
        return sparse.log_prob(self.logits(h, batch), batch, self.log_theta(h, batch))


class ZeroInflatedNegativeBinomial(NegativeBinomial):
    """Negative binomial counts with a probability of additional zeros that depends on gene and cell.

    Parameters
    ----------
    dispersion, gene_shift
        As for :class:`NegativeBinomial`.
    """

    def __init__(self, dispersion: Dispersion = "gene", gene_shift: bool = False) -> None:
        super().__init__(dispersion, gene_shift)

    def build(self, in_features: int, features: int, covariates: int = 0) -> None:
        """Make the heads; additional zeros start rare (see the base class)."""
        super().build(in_features, features, covariates)
        self.gate = nn.Linear(in_features, features)
        nn.init.constant_(self.gate.bias, -3.0)

    def forward(self, h: Tensor, batch: Batch) -> Distribution:
        """Return independent zero-inflated counts (see the base class)."""
        counts = NegativeBinomialDistribution(
            log_mean=self.log_mean(h, batch), log_inverse_dispersion=self.log_theta(h, batch)
        )
        return Independent(ZeroInflated(counts, at_least_float32(self.gate(h))), 1)

    def log_prob(self, h: Tensor, batch: Batch) -> Tensor:
        """Return log p(x | latents), by way of the non-zero counts (see the base class)."""
        self.check(batch)
        if batch.observed is not None:
            return super().log_prob(h, batch)
        return sparse.log_prob(self.logits(h, batch), batch, self.log_theta(h, batch), at_least_float32(self.gate(h)))
