"""The contract of a latent variable."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit.batch import Moments
from vaekit.component import Component
from vaekit.estimators import Enumerate, Estimator
from vaekit.estimators.automatic import choose, fitting
from vaekit.exceptions import ConfigError, EstimatorError


class Latent(Component, nn.Module, ABC):
    """One latent variable of a model: how its posterior is read off the encoder, its prior, its estimator.

    Parameters
    ----------
    size
        Number of values that the decoder sees.
    estimator
        Gradient estimator of this node, or ``"auto"``: an exact sum where the support is small, pathwise where
        the distribution allows it, else the score function with leave-one-out.
    parent
        Name of a latent that this one's prior depends on.

    Attributes
    ----------
    discrete
        Whether values are codes rather than coordinates.
    technical
        Whether it describes the measurement (the library size) rather than the observation: the decoder does not
        see it, and an embedding should not.
    covariates
        Width of the known covariates.
    """

    discrete: ClassVar[bool]
    technical: ClassVar[bool] = False
    covariates = 0

    def __init__(self, size: int, estimator: Estimator | Literal["auto"], parent: str | None = None) -> None:
        super().__init__()
        if estimator != "auto" and not isinstance(estimator, Estimator):
            raise ConfigError(
                f"{type(self).__name__}: estimator is {estimator!r}; an instance of an estimator is needed, such as "
                "vaekit.estimators.Pathwise(), or 'auto'"
            )
        self.size, self.parent = size, parent
        self._wanted = estimator
        self.estimator: Estimator

    def build(
        self, in_features: int, parent_size: int | None, rows: int = 1, joint: bool = False, covariates: int = 0
    ) -> int:
        """Make the layers once the sizes are known, and settle the estimator.

        Parameters
        ----------
        in_features
            Width of the encoder's features.
        parent_size
            Size of the parent, if there is one.
        rows
            Product of the rows of the latents before it, which count towards the budget of exact sums.
        joint
            Whether the objective draws joint trajectories.
        covariates
            Width of the known covariates.

        Returns
        -------
        int
            Rows of this latent.

        Raises
        ------
        EstimatorError
            If the estimator does not fit the posterior.
        """
        self.covariates = covariates
        self.build_layers(in_features, parent_size)
        q = self.posterior(torch.zeros(1, in_features))
        self.estimator = choose(q, rows=rows, joint=joint) if self._wanted == "auto" else self._wanted
        if not self.estimator.fits(q):
            raise EstimatorError(
                f"{type(self.estimator).__name__} does not fit a {type(self).__name__} latent; {fitting(q)}"
            )
        own = self.estimator.rows(q)  # refuses a support over the budget
        if isinstance(self.estimator, Enumerate):
            self.estimator.check_budget(rows * own, "this latent together with those before it")
        self.estimator.build(in_features, self.size)
        return own

    @abstractmethod
    def build_layers(self, in_features: int, parent_size: int | None) -> None:
        """Make the posterior head for ``in_features`` encoder features, and the prior."""

    @abstractmethod
    def posterior(self, h: Tensor) -> Distribution:
        """Return q(z | x), batch shape ``[batch]``, from encoder features ``[batch, in_features]``."""

    @abstractmethod
    def prior(self, parent: Tensor | None, like: Tensor) -> Distribution:
        """Return p(z | parent).

        Parameters
        ----------
        parent
            Flattened value of the parent, ``[*rows, batch, parent_size]``; None where there is none.
        like
            A tensor whose device and dtype the parameters get.
        """

    @abstractmethod
    def summary(self, q: Distribution) -> Tensor:
        """Return what an embedding stores: means ``[batch, size]``, or the codes' probabilities."""

    def start_at(self, moments: Moments) -> None:
        """Take over what the latent needs to know of the training data; here, nothing."""

    def flatten(self, value: Tensor) -> Tensor:
        """Return values ``[..., *event]`` as ``[..., size]``, as the decoder sees them."""
        return value.reshape(*value.shape[: value.dim() - self.event_dims], self.size)

    @property
    @abstractmethod
    def event_dims(self) -> int:
        """Number of event dimensions of a value."""

    def extra_repr(self) -> str:
        """Describe the posterior in ``print(model)``."""
        return f"size={self.size}, parent={self.parent!r}"
