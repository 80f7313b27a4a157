"""The contract of a latent variable."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit._core.components import Component
from vaekit.batch import Batch, DataStatistics
from vaekit.estimators import Enumerate, Estimator
from vaekit.estimators.automatic import choose_estimator, describe_supported
from vaekit.exceptions import ConfigError, EstimatorError
from vaekit.latents.activity import (
    ACTIVE_PROBABILITY,
    ACTIVE_VARIANCE,
    dimension_activity,
    state_activity,
    sum_moments,
)
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
    conditional_posterior : bool
        Whether the posterior depends on the parents, as the prior does.
    discrete : bool
        Whether the values are codes, not coordinates. Only a discrete latent may be a parent.
    is_nuisance : bool
        Whether it describes the measurement (the library size), not the observation. The decoder and embeddings
        ignore it; the likelihood uses its :meth:`size_factor`.
    is_categorical : bool
        Whether the values are one-hot vectors, so that the summary contains the probabilities of the categories.
    supports_traversal : bool
        Whether a dimension can be moved by standard deviations of its prior.
    unit : str
        Name, in messages, of one of the ``size`` values.
    state_shape : tuple[int, int] or None
        Number of variables and of states per variable, whose probabilities sum to 1; for topics, 1 and their number.
        None if there are no states.
    covariates : int
        Width of the covariates.
    """

    conditional_posterior: ClassVar[bool] = False
    discrete: ClassVar[bool]
    is_nuisance: ClassVar[bool] = False
    is_categorical: ClassVar[bool] = False
    supports_traversal: ClassVar[bool] = False
    unit: ClassVar[str] = "dimension"
    state_shape: tuple[int, int] | None = None
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
            self.estimator = choose_estimator(q, num_evaluations=rows, joint=joint)
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

    def init_new_batches(self, log_size_factor: Tensor, batch: Tensor) -> None:
        """Set the parameters of batches that the training data do not contain. The default does nothing.

        Parameters
        ----------
        log_size_factor : Tensor, shape (observations,)
            Logarithm of the size factor of each new observation.
        batch : Tensor, shape (observations,)
            Index of the batch of each observation.
        """

    def size_factor(self, value: Tensor, batch: Batch) -> Tensor:
        """Return the size factors ``[*sample, batch, 1]`` of a nuisance latent at its values."""
        raise NotImplementedError

    @property
    def is_coordinate(self) -> bool:
        """Whether the dimensions are coordinates of an observation in latent space."""
        return not self.discrete and not self.is_nuisance

    @property
    def is_single_categorical(self) -> bool:
        """Whether the latent is one categorical variable, so that each observation has one category."""
        return self.is_categorical and self.state_shape == (1, self.size)

    def state_probabilities(self, summary: Tensor) -> Tensor:
        """Return the probabilities of the states, ``[observations, *state_shape]``, from a summary."""
        assert self.state_shape is not None
        return summary.unflatten(-1, self.state_shape)

    def codes(self, summary: Tensor) -> Tensor:
        """Return the index of the most probable state of each variable, ``[observations, variables]``."""
        return self.state_probabilities(summary).argmax(-1)

    def moments(self, summary: Tensor) -> Tensor:
        """Return the sums over observations that :meth:`activity` needs; add them up over mini-batches."""
        return sum_moments(self.state_probabilities(summary) if self.state_shape else summary)

    def activity(self, moments: Tensor) -> Tensor:
        """Return the activity of each dimension ``[size]``, or of each state ``[*state_shape]``.

        For a dimension it is the variance over the data of the posterior mean. For a state see
        :func:`vaekit.latents.activity.state_activity`. Above :attr:`active_threshold` it is active.
        """
        return state_activity(moments) if self.state_shape else dimension_activity(moments)

    @property
    def active_threshold(self) -> float:
        """Activity above which a dimension or state is active."""
        return ACTIVE_PROBABILITY if self.state_shape else ACTIVE_VARIANCE

    def unit_activity(self, moments: Tensor) -> Tensor:
        """Return the activity of each value that the decoder sees, ``[size]``; for a bit that of state 1."""
        return self.activity(moments).reshape(self.size, -1)[:, -1]

    def unit_name(self, index: int) -> str:
        """Return the name of one of the ``size`` values: ``"3"``, or ``"1:3"`` for category 3 of variable 1."""
        return str(index)

    def state_name(self, variable: int, state: int) -> str:
        """Return ``"3"`` for state 3 of the only variable, or ``"1:3"`` for state 3 of variable 1 or bit 1."""
        return str(state) if self.state_shape == (1, self.size) else f"{variable}:{state}"

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
