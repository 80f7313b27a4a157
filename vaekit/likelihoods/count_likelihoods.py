"""Likelihoods of UMI counts, whose mean is the size factor of the cell times a composition over the genes."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent
from torch.distributions import Poisson as PoissonDistribution
from typing_extensions import override

from vaekit.batch import Batch, DataStatistics
from vaekit.distributions import NegativeBinomial as NegativeBinomialDistribution
from vaekit.distributions import ZeroInflated
from vaekit.exceptions import ConfigError, DataError, did_you_mean
from vaekit.likelihoods.counts import sparse
from vaekit.likelihoods.counts.thinning import thinned_log_counts
from vaekit.likelihoods.likelihood import Likelihood
from vaekit.networks.precision import at_least_float32

Dispersion = Literal["gene", "gene-batch", "gene-cell"]


class CountLikelihood(Likelihood):
    """Base class of the count likelihoods: ``log mean = log size_factor + log_softmax(logits)``.

    Parameters
    ----------
    gene_shift : bool or None
        Whether each covariate also shifts the logit of each gene after the decoder. None: if there are covariates.
    thinning : float
        Largest fraction of the molecules of a cell, in 0..1, that the encoder does not see in a training step: see
        :func:`vaekit.likelihoods.counts.thinning.thinned_log_counts`. The likelihood always uses all of them.

    Raises
    ------
    ConfigError
        If ``thinning`` is outside 0..1; with ``gene_shift=True``, when a model or data have no covariates.
    """

    uses_size_factor = True
    has_composition = True
    mean_input: Tensor

    def __init__(self, gene_shift: bool | None = None, thinning: float = 0.0) -> None:
        super().__init__()
        if not 0 <= thinning < 1:
            raise ConfigError(
                f"{type(self).__name__}: thinning={thinning} must be a fraction of the molecules, at least 0 and below "
                "1, such as 0.5."
            )
        self.gene_shift, self.thinning = gene_shift, thinning

    @override
    def build(self, in_features: int, features: int, covariates: int = 0) -> None:
        self.composition = nn.Linear(in_features, features)
        if self.gene_shift is None:
            self.gene_shift = covariates > 0
        if self.gene_shift:
            if not covariates:
                raise self._missing("gene_shift=True needs covariates", "gene_shift=False")
            self.composition_shift = nn.Parameter(torch.zeros(covariates, features))
        self.register_buffer("mean_input", torch.zeros(features))  # of the encoder, over the training cells

    @override
    def check(self, batch: Batch) -> None:
        if batch.size_factor is None:
            raise DataError(
                f"likelihood {type(self).__name__} needs counts with size factors, which these data do not have. Use "
                "Bernoulli or Gaussian for pixels."
            )

    def _missing(self, problem: str, alternative: str) -> ConfigError:
        return ConfigError(
            f"{type(self).__name__}: {problem}, but the data have 0. Set data.batch_key to the column of the batches "
            f"(and pass data.covariates to the model), or use {alternative}."
        )

    def logits(self, h: Tensor, batch: Batch) -> Tensor:
        """Return the logits of the composition, ``[*sample, batch, genes]``.

        Their softmax is the expected fraction of each gene in the counts, without additional zeros and library size.
        """
        logits = at_least_float32(self.composition(h))
        if not self.gene_shift:
            return logits
        if batch.covariates is None:
            raise self._missing("gene_shift=True needs covariates", "gene_shift=False")
        return logits + batch.covariates @ self.composition_shift

    def log_mean(self, h: Tensor, batch: Batch) -> Tensor:
        """Return the logarithm of the expected counts, ``[*sample, batch, genes]``."""
        self.check(batch)
        assert batch.size_factor is not None  # checked
        return self.logits(h, batch).log_softmax(-1) + batch.size_factor.log()

    def encoder_input(self, batch: Batch) -> Tensor:
        """Return ``log(1 + counts)``, in training of thinned counts.

        Unobserved genes have the training mean. The deviations of the others from their mean are divided by the
        fraction of observed genes, which keeps the expected input of the first layer if genes are lost at random.
        """
        thins = self.training and self.thinning > 0
        # 1 + x is exact for counts, and log is faster than log1p
        x = thinned_log_counts(batch, self.thinning) if thins else batch.x.add(1).log_()
        if batch.observed is None:
            return x
        observed = batch.observed.to(x.dtype)
        return self.mean_input + (x - self.mean_input) * observed / observed.mean(-1, keepdim=True)

    @torch.no_grad()
    def init_from_data(self, statistics: DataStatistics) -> None:
        """Set the biases to the mean composition; a gene without counts gets half of the smallest positive mean."""
        mean = statistics.mean
        floor = mean[mean > 0].min() / 2 if bool((mean > 0).any()) else torch.ones(())
        self.composition.bias.copy_(mean.clamp_min(floor).log())
        if statistics.mean_log1p is not None:
            self.mean_input.copy_(statistics.mean_log1p)


class Poisson(CountLikelihood):
    """Poisson counts: the variance equals the mean.

    Parameters
    ----------
    gene_shift, thinning
        As in :class:`CountLikelihood`.

    Raises
    ------
    ConfigError
        If an argument is not valid for :class:`CountLikelihood`.

    Examples
    --------
    >>> import torch, vaekit
    >>> likelihood = vaekit.likelihoods.Poisson()
    >>> likelihood.build(in_features=8, features=3)
    >>> batch = vaekit.Batch(torch.ones(5, 3), size_factor=torch.full((5, 1), 3.0))
    >>> likelihood.log_prob(torch.zeros(5, 8), batch).shape  # one log-probability per observation
    torch.Size([5])
    """

    def __init__(self, gene_shift: bool | None = None, thinning: float = 0.0) -> None:
        super().__init__(gene_shift, thinning)

    @override
    def forward(self, h: Tensor, batch: Batch) -> Distribution:
        return Independent(PoissonDistribution(self.log_mean(h, batch).exp(), validate_args=False), 1)


class NegativeBinomial(CountLikelihood):
    r"""Negative binomial counts: the variance is ``mean + mean^2 / theta``.

    Parameters
    ----------
    dispersion : str or None
        Dependence of the inverse dispersion theta: ``"gene"``; ``"gene-batch"``, whose logarithm is the sum of one
        parameter per gene and one per gene and batch; ``"gene-cell"``, computed from the decoder's features. None:
        ``"gene-batch"`` if there are batches, otherwise ``"gene"``.
    gene_shift, thinning
        As in :class:`CountLikelihood`.

    Raises
    ------
    ConfigError
        If ``dispersion`` is unknown, or another argument is not valid for :class:`CountLikelihood`; for
        ``"gene-batch"``, when a model has no covariates or data have no batches.

    Examples
    --------
    >>> import torch, vaekit
    >>> likelihood = vaekit.likelihoods.NegativeBinomial()
    >>> likelihood.build(in_features=8, features=3)
    >>> batch = vaekit.Batch(torch.ones(5, 3), size_factor=torch.full((5, 1), 3.0))
    >>> likelihood.log_prob(torch.zeros(5, 8), batch).shape  # one log-probability per observation
    torch.Size([5])
    """

    short_names = ("nb",)

    batch_columns: Tensor

    def __init__(
        self, dispersion: Dispersion | None = None, gene_shift: bool | None = None, thinning: float = 0.0
    ) -> None:
        super().__init__(gene_shift, thinning)
        if dispersion is not None and dispersion not in get_args(Dispersion):
            raise ConfigError(
                f"{type(self).__name__}: dispersion={dispersion!r} not found. "
                f"{did_you_mean(str(dispersion), get_args(Dispersion))}"
            )
        self.dispersion, self._requires_batches = dispersion, dispersion == "gene-batch"

    @override
    def build(self, in_features: int, features: int, covariates: int = 0) -> None:
        super().build(in_features, features, covariates)
        if self.dispersion == "gene-cell":
            self.dispersion_head = nn.Linear(in_features, features)
            nn.init.zeros_(self.dispersion_head.bias)
            return
        self.log_inverse_dispersion = nn.Parameter(torch.zeros(features))
        if self.dispersion is None:
            self.dispersion = "gene-batch" if covariates else "gene"
        if self.dispersion == "gene-batch":
            if not covariates:
                raise self._no_batches()
            self.dispersion_shift = nn.Parameter(torch.zeros(covariates, features))
            self.register_buffer("batch_columns", torch.ones(covariates))  # all, until init_from_data

    def init_from_data(self, statistics: DataStatistics) -> None:
        """Set the biases to the mean composition, and record the columns of the batches."""
        super().init_from_data(statistics)
        if self.dispersion == "gene-batch":
            if self._requires_batches and not statistics.num_batches:
                raise self._no_batches()
            self.batch_columns.copy_(torch.arange(len(self.batch_columns)) < statistics.num_batches)

    def _no_batches(self) -> ConfigError:
        return self._missing("dispersion='gene-batch' needs batches", "dispersion='gene' or 'gene-cell'")

    def log_theta(self, h: Tensor, batch: Batch) -> Tensor:
        """Return the log inverse dispersions: ``[genes]``, ``[batch, genes]`` or ``[*sample, batch, genes]``."""
        if self.dispersion == "gene-cell":
            return at_least_float32(self.dispersion_head(h))
        if self.dispersion == "gene":
            return self.log_inverse_dispersion
        if batch.covariates is None:
            raise self._no_batches()
        return self.log_inverse_dispersion + (batch.covariates * self.batch_columns) @ self.dispersion_shift

    def gate_logits(self, h: Tensor) -> Tensor | None:
        """Return the logits of additional zeros, ``[*sample, batch, genes]``, or None without them."""
        return None

    @override
    def forward(self, h: Tensor, batch: Batch) -> Distribution:
        log_mean, log_theta, gate = self.log_mean(h, batch), self.log_theta(h, batch), self.gate_logits(h)
        counts = NegativeBinomialDistribution(log_mean=log_mean, log_inverse_dispersion=log_theta)
        return Independent(counts if gate is None else ZeroInflated(counts, gate), 1)

    def log_prob(self, h: Tensor, batch: Batch) -> Tensor:
        """Return log p(x given latents), computed from the non-zero counts if all genes were observed."""
        self.check(batch)
        if batch.observed is not None:
            return super().log_prob(h, batch)
        return sparse.log_prob(self.logits(h, batch), batch, self.log_theta(h, batch), self.gate_logits(h))


class ZeroInflatedNegativeBinomial(NegativeBinomial):
    """Negative binomial counts with a probability of additional zeros that depends on gene and cell.

    Parameters
    ----------
    dispersion, gene_shift, thinning
        As in :class:`NegativeBinomial`.

    Raises
    ------
    ConfigError
        If an argument is not valid for :class:`NegativeBinomial`.

    Examples
    --------
    >>> import torch, vaekit
    >>> likelihood = vaekit.likelihoods.ZeroInflatedNegativeBinomial()
    >>> likelihood.build(in_features=8, features=3)
    >>> batch = vaekit.Batch(torch.ones(5, 3), size_factor=torch.full((5, 1), 3.0))
    >>> likelihood.log_prob(torch.zeros(5, 8), batch).shape  # one log-probability per observation
    torch.Size([5])
    """

    short_names = ("zinb",)

    def __init__(
        self, dispersion: Dispersion | None = None, gene_shift: bool | None = None, thinning: float = 0.0
    ) -> None:
        super().__init__(dispersion, gene_shift, thinning)

    @override
    def build(self, in_features: int, features: int, covariates: int = 0) -> None:
        super().build(in_features, features, covariates)
        self.gate = nn.Linear(in_features, features)
        nn.init.constant_(self.gate.bias, -3.0)  # additional zeros start rare

    @override
    def gate_logits(self, h: Tensor) -> Tensor:
        return at_least_float32(self.gate(h))
