"""The library size of a cell as a latent variable."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from vaekit.batch import Batch, DataStatistics
from vaekit.estimators import Estimator
from vaekit.latents.gaussian import diagonal_normal
from vaekit.latents.latent import Latent

LIMIT = 60.0  # of a log size: exp(60) is finite in float32


class LibrarySize(Latent):
    r"""The log-normal library size of a cell, learned rather than the observed total count.

    .. math:: s = \exp(m_b + s_b\, u), \qquad u \sim \mathcal{N}(0, 1),

    with the mean and standard deviation of the log totals of the training cells, of each batch b where there are
    batches. The latent variable is u, its posterior normal; the KL divergence is that of s, as it does not depend on
    the unit. The decoder does not see it: it takes the place of ``Batch.size_factor`` in a count likelihood. The
    moments come from the data when the training starts, and are 0 and 1 without a datamodule.

    Lopez et al. (2018), Deep Generative Modeling for Single-Cell Transcriptomics.

    Parameters
    ----------
    estimator
        Gradient estimator; ``"auto"`` is ``Pathwise()``.

    Examples
    --------
    >>> latent = LibrarySize()
    >>> _ = latent.build(4, None)
    >>> latent.init_from_data(DataStatistics(torch.ones(2), log_size_factor=torch.tensor([[2.0, 0.5]])))
    >>> latent.size_factor(torch.tensor([[0.0], [2.0]]), Batch(torch.zeros(2, 2))).log().tolist()
    [[2.0], [3.0]]
    """

    discrete = False
    is_nuisance = True
    event_dim = 1
    log_size: Tensor

    def __init__(self, estimator: Estimator | Literal["auto"] = "auto") -> None:
        super().__init__(1, estimator)

    def build_layers(self, in_features: int, parent_size: int | None) -> None:
        """Make the posterior head, and the place of the moments (see the base class)."""
        self.head = nn.Linear(in_features, 2)
        # mean and scale of the log size are linear in (1, covariates): a row each
        self.register_buffer("log_size", torch.zeros(1 + self.covariates, 2))
        self.log_size[0, 1] = 1

    @torch.no_grad()
    def init_from_data(self, moments: DataStatistics) -> None:
        """Take over the moments of the training cells' log sizes (see the base class)."""
        if moments.log_size_factor is None:
            return
        self.log_size.zero_()
        first = 1 if moments.num_batches else 0  # the batches' rows replace the constant
        self.log_size[first : first + len(moments.log_size_factor)] = moments.log_size_factor.to(self.log_size)

    @torch.no_grad()
    def init_new_batches(self, log_size_factor: Tensor, batch: Tensor) -> None:
        """Set the mean and standard deviation of each new batch; one observation keeps the standard deviation."""
        for index in batch.unique().tolist():
            sizes = log_size_factor[batch == index]
            self.log_size[1 + index, 0] = sizes.mean()
            if len(sizes) > 1:
                self.log_size[1 + index, 1] = sizes.std()

    def posterior(self, h: Tensor) -> Distribution:
        """Return the normal posterior of u (see the base class)."""
        return diagonal_normal(self.head(h))

    def prior(self, parent: Tensor | None, like: Tensor) -> Distribution:
        """Return the standard normal prior of u (see the base class)."""
        return Independent(Normal(like.new_zeros(1), like.new_ones(1), validate_args=False), 1)

    def summary(self, q: Distribution) -> Tensor:
        """Return the posterior means of u, ``[batch, 1]``."""
        return q.mean

    def size_factor(self, value: Tensor, batch: Batch) -> Tensor:
        """Return the library size, ``[*rows, batch, 1]``, at values of u of that shape."""
        moments = (
            self.log_size[0] if batch.covariates is None else self.log_size[0] + batch.covariates @ self.log_size[1:]
        )
        loc, scale = moments.chunk(2, -1)
        return (loc + scale * value).clamp(-LIMIT, LIMIT).exp()
