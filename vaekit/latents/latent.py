"""The contract of a latent variable."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit._core.components import Component
from vaekit.batch import DataStatistics
from vaekit.estimators import Enumerate, Estimator
from vaekit.estimators.automatic import choose_estimator, describe_supported
from vaekit.exceptions import ConfigError, EstimatorError
from vaekit.networks import MLP


class Latent(Component, nn.Module, ABC):
    """One latent variable of a model: how its posterior is read off the encoder, its prior, its estimator.

    Its prior may depend on other latents, its parents. Their values act in one of two ways:

    - by its prior alone: the posterior is a function of the data, and the decoder sees this latent, not its parents
      (a mixture: the parent chooses the component);
    - if it is ``conditional``, by its posterior too: q(z | x, parents), and the decoder sees it beside its parents (a
      sequence, in which each latent goes into more detail).

    Parameters
    ----------
    size
        Number of values that the decoder sees.
    estimator
        Gradient estimator of this node, or ``"auto"``: an exact sum where the support is small, pathwise where
        the distribution allows it, else ``DisARM`` for bits, else the score function with leave-one-out.
    parents
        Names of the latents that it depends on.

    Attributes
    ----------
    conditional
        Whether the posterior depends on the parents, as the prior does.
    discrete
        Whether values are codes rather than coordinates.
    technical
        Whether it describes the measurement (the library size) rather than the observation: the decoder does not
        see it, and an embedding should not.
    covariates
        Width of the known covariates.
    """

    conditional_posterior: ClassVar[bool] = False
    discrete: ClassVar[bool]
    is_nuisance: ClassVar[bool] = False
    covariates = 0

    def __init__(self, size: int, estimator: Estimator | Literal["auto"], parents: Sequence[str] = ()) -> None:
        super().__init__()
        if estimator != "auto" and not isinstance(estimator, Estimator):
            raise ConfigError(
                f"{type(self).__name__}: estimator is {estimator!r}; an instance of an estimator is needed, such as "
                "vaekit.estimators.Pathwise(), or 'auto'"
            )
        if isinstance(parents, str) or len(set(parents)) < len(parents):
            raise ConfigError(f"{type(self).__name__}: parents is {parents!r}; a list of different names is needed")
        self.size, self.parents = size, tuple(parents)
        self._automatic = estimator == "auto"
        self.estimator: Estimator
        if isinstance(estimator, Estimator):
            self.estimator = estimator

    def build(
        self,
        in_features: int,
        parent_size: int | None,
        rows: int = 1,
        joint: bool = False,
        covariates: int = 0,
        ancestor_size: int = 0,
    ) -> int:
        """Make the layers once the sizes are known, and settle the estimator.

        Parameters
        ----------
        in_features
            Width of the encoder's features.
        parent_size
            Size of the parents together, if there are any.
        rows
            Product of the rows of the latents before it, which count towards the budget of exact sums.
        joint
            Whether the objective draws joint trajectories.
        covariates
            Width of the known covariates.
        ancestor_size
            Size of the latents that the posterior depends on, directly or by way of others: what a critic sees.

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
        if self.conditional_posterior and parent_size is not None:
            self.joining = MLP([in_features])
            self.joining.build(in_features + parent_size)
        self.build_layers(in_features, parent_size)
        q = self.posterior(torch.zeros(1, in_features))
        if self._automatic:
            self.estimator = choose_estimator(q, rows=rows, joint=joint)
        if not self.estimator.supports(q):
            raise EstimatorError(
                f"{type(self.estimator).__name__} does not fit a {type(self).__name__} latent; {describe_supported(q)}"
            )
        own = self.estimator.num_evaluations(q)  # refuses a support over the budget
        if isinstance(self.estimator, Enumerate) and not joint:  # where it cannot serve, the objective says so
            self.estimator.check_budget(rows * own, "this latent together with those before it")
        self.estimator.build(in_features, self.size, ancestor_size)
        return own

    @abstractmethod
    def build_layers(self, in_features: int, parent_size: int | None) -> None:
        """Make the posterior head for ``in_features`` features, and the prior."""

    @property
    def posterior_parents(self) -> tuple[str, ...]:
        """Names of the latents that the posterior depends on."""
        return self.parents if self.conditional_posterior else ()

    def condition_on_parents(self, h: Tensor, parents: Tensor) -> Tensor:
        """Return what the head of a conditional latent sees, ``[*rows, batch, in_features]``.

        One layer of encoder features ``[batch, in_features]`` and of the parents' flattened values,
        ``[*rows, batch, parent_size]``: it lets the parents change what the data say of this latent.
        """
        return self.joining(torch.cat([h.expand(*parents.shape[:-1], h.shape[-1]), parents.to(h.dtype)], -1))

    @abstractmethod
    def posterior(self, h: Tensor) -> Distribution:
        """Return q(z | x), batch shape ``[*rows, batch]``, from features ``[*rows, batch, in_features]``.

        They are the encoder's, or what :meth:`join` makes of them. The distribution's parameters are float32 at least,
        also where training is in mixed precision (:func:`vaekit.networks.precision.at_least_float32`).
        """

    @abstractmethod
    def prior(self, parent: Tensor | None, like: Tensor) -> Distribution:
        """Return p(z | parents).

        Parameters
        ----------
        parent
            Flattened values of the parents side by side, ``[*rows, batch, parent_size]``; None where there are none.
        like
            A tensor whose device and dtype the parameters get.
        """

    @abstractmethod
    def summary(self, q: Distribution) -> Tensor:
        """Return what an embedding stores: means ``[batch, size]``, or the codes' probabilities."""

    def point_estimate(self, q: Distribution) -> Tensor:
        """Return one value that stands for ``q``, ``[*batch, *event]``: here, of a continuous latent, its mean."""
        return q.mean

    def init_from_data(self, moments: DataStatistics) -> None:
        """Take over what the latent needs to know of the training data; here, nothing."""

    def flatten(self, value: Tensor) -> Tensor:
        """Return values ``[..., *event]`` as ``[..., size]``, as the decoder sees them."""
        return value.reshape(*value.shape[: value.dim() - self.event_dim], self.size)

    @property
    @abstractmethod
    def event_dim(self) -> int:
        """Number of event dimensions of a value."""

    def extra_repr(self) -> str:
        """Describe the posterior in ``print(model)``."""
        return f"size={self.size}, parents={list(self.parents)}"
