"""Library size of a cell as a latent variable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Distribution
from typing_extensions import override

from vaekit.batch import Batch, DataStatistics
from vaekit.estimators import Estimator
from vaekit.latents.gaussian import diagonal_normal, standard_normal
from vaekit.latents.latent import Latent

MAX_LOG_SIZE = 60.0  # exp(60) is finite in float32


class LibrarySize(Latent):
    r"""The log-normal library size of a cell, learned instead of observed as the total count.

    .. math:: s = \exp(m_b + s_b\, u), \qquad u \sim \mathcal{N}(0, 1)

    with the mean and standard deviation of the log total counts of the training cells, separately for each batch b.
    The latent variable is u, with a normal posterior; its KL divergence equals that of s. The decoder does not see it:
    it replaces ``Batch.size_factor`` in a count likelihood. Mean and standard deviation come from the data when
    training starts, and are 0 and 1 without a data module.

    Lopez et al. (2018), Deep Generative Modeling for Single-Cell Transcriptomics.

    Parameters
    ----------
    estimator : Estimator or "auto"
        Gradient estimator; ``"auto"`` is ``Pathwise()``.
    parents, conditional_posterior
        As in :class:`Latent`. Mean and standard deviation of u in the prior depend on the parents.

    Examples
    --------
    >>> latent = LibrarySize()
    >>> _ = latent.build(4, None)
    >>> latent.init_from_data(DataStatistics(torch.ones(2), log_size_factor=torch.tensor([[2.0, 0.5]])))
    >>> latent.size_factor(torch.tensor([[0.0], [2.0]]), Batch(torch.zeros(2, 2))).log().tolist()
    [[2.0], [3.0]]
    """

    is_nuisance = True
    num_parameters = 2
    log_size: Tensor

    def __init__(
        self,
        estimator: Estimator | Literal["auto"] = "auto",
        parents: Sequence[str] = (),
        conditional_posterior: bool | Sequence[str] | None = None,
    ) -> None:
        super().__init__(1, estimator, parents, conditional_posterior)

    @override
    def build_layers(self, in_features: int, parent_size: int | None) -> None:
        super().build_layers(in_features, parent_size)
        # mean and standard deviation of the log size are linear in (1, covariates): one row per input
        self.register_buffer("log_size", torch.zeros(1 + self.covariates, 2))
        self.log_size[0, 1] = 1

    @override
    @torch.no_grad()
    def init_from_data(self, statistics: DataStatistics) -> None:
        if statistics.log_size_factor is not None:
            self.log_size.zero_()
            first = 1 if statistics.num_batches else 0  # rows of batches replace the constant
            end = first + len(statistics.log_size_factor)
            self.log_size[first:end] = statistics.log_size_factor.to(self.log_size)

    @override
    @torch.no_grad()
    def init_new_batches(self, log_size_factor: Tensor, batch: Tensor) -> None:
        for index in batch.unique().tolist():
            sizes = log_size_factor[batch == index]  # the rows of batches are added to the constant
            self.log_size[1 + index, 0] = sizes.mean() - self.log_size[0, 0]
            if len(sizes) > 1:  # otherwise keep the standard deviation
                self.log_size[1 + index, 1] = sizes.std() - self.log_size[0, 1]

    @override
    def posterior(self, h: Tensor) -> Distribution:
        return diagonal_normal(self.head(h))

    @override
    def prior(self, parent: Tensor | None, like: Tensor) -> Distribution:
        return standard_normal(1, like) if parent is None else diagonal_normal(self.prior_outputs(parent, like))

    @override
    def size_factor(self, value: Tensor, batch: Batch) -> Tensor:
        parameters = self.log_size[0]
        if batch.covariates is not None:
            parameters = parameters + batch.covariates @ self.log_size[1:]
        loc, scale = parameters.chunk(2, -1)
        return (loc + scale * value).clamp(-MAX_LOG_SIZE, MAX_LOG_SIZE).exp()
