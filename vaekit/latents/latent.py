"""Base class of the latent variables: posterior, prior, estimator, and the methods that other modules call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from typing_extensions import override

from vaekit._core.components import Component
from vaekit.batch import Batch, DataStatistics
from vaekit.estimators import Estimator
from vaekit.estimators.automatic import choose_estimator, describe_supported
from vaekit.exceptions import ConfigError, EstimatorError
from vaekit.latents.latent_values import LatentValues
from vaekit.latents.observed_labels import ObservedLabels
from vaekit.latents.prior_start import PriorStart
from vaekit.networks import MLP, Network
from vaekit.networks.precision import at_least_float32


class Latent(LatentValues, Component, nn.Module, ABC):
    """Base class of the latent variables of a model.

    The prior may depend on other latents, the parents, discrete or continuous ones, in one of two ways:

    - The posterior depends on the data only, and the decoder sees this latent instead of its parents. An example is a
      mixture, whose parent selects the component.
    - With ``conditional_posterior`` the posterior depends on the parents, too, and the decoder sees all of them. An
      example is a sequence, in which each latent adds detail. Names of other latents make the posterior depend on these
      instead, as in a hierarchy whose posterior goes from the bottom to the top.

    With ``decoded`` the decoder sees other latents than these. For a category y and a vector z with ``parents=["y"]``
    and ``conditional_posterior=True``, the decoder of the model M2 sees both, and that of a Gaussian mixture VAE only
    z: there y has ``decoded=False``. A network with one layer computes the parameters of the prior from the parents,
    and starts at the prior without parents.

    Parameters
    ----------
    size : int
        Number of values that the decoder sees.
    estimator : Estimator or "auto"
        Gradient estimator of this node. ``"auto"`` chooses an exact sum if the support is small, pathwise if the
        distribution supports it, ``DisARM`` for bits, otherwise the score function with leave-one-out baseline.
    parents : Sequence[str]
        Names of the latents that this one depends on.
    conditional_posterior : bool or Sequence[str] or None
        Whether the posterior depends on the parents, like the prior, or the names of the latents that it depends on
        instead. None: True for categories and bits, False for other latents.
    decoded : bool or None
        Whether the decoder sees this latent. None: it does, unless the prior of a child depends on it, but the
        posterior of this child does not.

    Attributes
    ----------
    num_parameters : int
        Number of outputs of the posterior head per value.
    discrete_parents : bool
        Whether all parents are discrete. Known once the model is built.
    covariates : int
        Width of the covariates.
    labels : ObservedLabels or None
        Known categories of some observations; None if the latent is never observed.

    Examples
    --------
    >>> import vaekit
    >>> latents = vaekit.latents.Gaussian(10), vaekit.latents.Categorical(8, 2), vaekit.latents.LibrarySize()
    >>> [(latent.size, latent.discrete, latent.is_nuisance) for latent in latents]
    [(10, False, False), (16, True, False), (1, False, True)]
    """

    conditional_posterior: bool | tuple[str, ...] = False  # default of the class
    num_parameters: ClassVar[int] = 1
    covariates = 0
    discrete_parents = True
    labels: ObservedLabels | None = None

    def __init__(
        self,
        size: int,
        estimator: Estimator | Literal["auto"],
        parents: Sequence[str] = (),
        conditional_posterior: bool | Sequence[str] | None = None,
        decoded: bool | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if estimator != "auto" and not isinstance(estimator, Estimator):
            raise ConfigError(
                f"{name}: estimator={estimator!r} must be an instance of an estimator, such as "
                "vaekit.estimators.Pathwise(), or 'auto'."
            )
        if not _are_names(parents):
            raise ConfigError(f"{name}: parents={parents!r} must be a list of different names, such as ['y'].")
        if not isinstance(conditional_posterior, bool | None) and not _are_names(conditional_posterior):
            raise ConfigError(
                f"{name}: conditional_posterior={conditional_posterior!r} must be true, false or a list of different "
                "names, such as ['z1']."
            )
        if conditional_posterior is True and not parents:
            raise ConfigError(
                f"{name}: conditional_posterior={conditional_posterior} needs parents. Name them, such as "
                "parents=['y'], or omit it."
            )
        self.size, self.parents, self.decoded = size, tuple(parents), decoded
        if conditional_posterior is not None:
            given = conditional_posterior
            self.conditional_posterior = given if isinstance(given, bool) else tuple(given)
        self._automatic = estimator == "auto"
        if estimator != "auto":
            self.estimator = estimator

    def build(
        self,
        in_features: int,
        parent_size: int | None,
        num_evaluations: int = 1,
        joint: bool = False,
        covariates: int = 0,
        ancestor_size: int = 0,
        discrete_parents: bool = True,
        posterior_size: int | None = None,
    ) -> int:
        """Create the layers for the given sizes, and choose or check the estimator.

        Parameters
        ----------
        in_features : int
            Width of the encoder's features.
        parent_size : int or None
            Total size of the parents. None: there are no parents.
        num_evaluations : int
            Product of the evaluations of the latents before this one, for the choice of an exact sum.
        joint : bool
            Whether the objective draws joint samples.
        covariates : int
            Width of the covariates.
        ancestor_size : int
            Total size of the latents that the posterior depends on, directly or indirectly: inputs of a critic.
        discrete_parents : bool
            Whether all parents are discrete.
        posterior_size : int or None
            Total size of :attr:`posterior_parents`. None: they are the parents, if there are any.

        Returns
        -------
        int
            Number of evaluations of the cost per observation that the estimator needs.

        Raises
        ------
        EstimatorError
            If the estimator does not support the posterior, or needs too many evaluations.
        """
        self.covariates, self.discrete_parents = covariates, discrete_parents
        if posterior_size is None:
            posterior_size = (parent_size or 0) if self.posterior_parents else 0
        if posterior_size:
            self.joining = MLP([in_features])
            self.joining.build(in_features + posterior_size)
        self.build_layers(in_features, parent_size)
        q = self.example_posterior(in_features)
        if self._automatic:
            self.estimator = self.choose_estimator(q, num_evaluations, joint)
        if not self.estimator.supports(q):
            raise EstimatorError(f"{self.estimator.explain_unsupported(q)} {describe_supported(q)}")
        own_evaluations = self.estimator.num_evaluations(q)  # raises if the support is too large
        self.estimator.build(in_features, self.event_size, ancestor_size)
        return own_evaluations

    def build_layers(self, in_features: int, parent_size: int | None) -> None:
        """Create the posterior head, by default a linear layer, and :meth:`build_prior` if there are parents."""
        self.head = nn.Linear(in_features, self.num_parameters * self.size)
        if parent_size is not None:
            self.build_prior(in_features, parent_size)

    def build_prior(self, width: int, parent_size: int) -> None:
        """Create the layers of the prior given the parents, by default a network with one layer of this width."""
        network, last = MLP([width]), nn.Linear(width, self.num_parameters * self.size)
        network.build(parent_size)
        nn.init.zeros_(last.weight)
        with torch.no_grad():
            last.bias.copy_(self.initial_prior_outputs())
        self.prior_network = nn.Sequential(network, last)

    def initial_prior_outputs(self) -> Tensor:
        """Return the outputs of the prior's network, ``[num_parameters * size]``, that give the prior without parents.

        The default is zeros.
        """
        return torch.zeros(self.num_parameters * self.size)

    def prior_outputs(self, parent: Tensor, like: Tensor) -> Tensor:
        """Return the outputs of the prior's network, ``[*sample, batch, num_parameters * size]``, as for a head."""
        return at_least_float32(self.prior_network(parent.to(like.dtype)))

    def example_posterior(self, in_features: int) -> Distribution:
        """Return a posterior with batch shape ``[1]``, for the choice and the checks of the estimator."""
        return self.posterior(torch.zeros(1, in_features))

    def choose_estimator(self, q: Distribution, num_evaluations: int, joint: bool) -> Estimator:
        """Return the estimator that ``"auto"`` stands for; arguments as in :meth:`build`."""
        return choose_estimator(q, num_evaluations=num_evaluations, joint=joint)

    def set_label_names(self, names: Sequence[str]) -> None:
        """Receive the names of the observed categories, before :meth:`build`, if the latent has labels."""
        raise NotImplementedError(f"{type(self).__name__} has labels and must implement set_label_names().")

    def connect(self, name: str, children: Mapping[str, Latent]) -> None:
        """Receive the own name and the latents of the built model that have this one as a parent.

        The default ignores them.
        """

    def head_outputs(self, h: Tensor) -> Tensor:
        """Return the outputs of the head in at least float32, also with mixed precision."""
        return at_least_float32(self.head(h))

    @property
    def posterior_parents(self) -> tuple[str, ...]:
        """Names of the latents that the posterior depends on."""
        if isinstance(self.conditional_posterior, bool):
            return self.parents if self.conditional_posterior else ()
        return self.conditional_posterior

    @property
    def related(self) -> tuple[str, ...]:
        """Names of the latents that prior or posterior depend on, and so their divergence."""
        return tuple(dict.fromkeys((*self.parents, *self.posterior_parents)))

    def condition_on_parents(self, h: Tensor, parents: Tensor) -> Tensor:
        """Return the input of the head, ``[*sample, batch, in_features]``, if the posterior depends on other latents.

        One layer combines encoder features ``[batch, in_features]`` with the flattened values of
        :attr:`posterior_parents`, ``[*sample, batch, posterior_size]``.
        """
        return self.joining(torch.cat([h.expand(*parents.shape[:-1], h.shape[-1]), parents.to(h.dtype)], -1))

    @abstractmethod
    def posterior(self, h: Tensor) -> Distribution:
        """Return q(z given x), batch shape ``[*sample, batch]``, from features ``[*sample, batch, in_features]``.

        The features come from the encoder or from :meth:`condition_on_parents`.
        """

    @abstractmethod
    def prior(self, parent: Tensor | None, like: Tensor) -> Distribution:
        """Return p(z given parents).

        Parameters
        ----------
        parent : Tensor or None, shape (*sample, batch, parent_size)
            Concatenated flattened values of the parents. None: there are no parents.
        like : Tensor
            Tensor with the device and dtype of the parameters.
        """

    def undecayed_layers(self) -> list[nn.Module]:
        """Return the linear layers whose weights must not decay; by default an empty list."""
        return []

    def init_from_data(self, statistics: DataStatistics) -> None:
        """Initialize from the training data. The default does nothing."""

    def connect_encoder(self, encoder: Network, in_features: int) -> None:
        """Receive the encoder of the built model and the width of its input. The default ignores them."""

    def init_from_observations(self, draw: Callable[[int], Tensor]) -> None:
        """Initialize from random training observations. The default does nothing.

        ``draw(count)`` returns the inputs of the encoder of up to ``count`` observations, ``[count, in_features]``.
        """

    @property
    def pending_start(self) -> PriorStart | None:
        """The prior if training must hold and start it, and has not started it yet; by default None."""
        return None

    def set_components(self, loc: Tensor, scale: Tensor) -> list[nn.Parameter]:
        """Set the prior given each category of the only parent, and return the parameters of these components.

        Parameters
        ----------
        loc, scale : Tensor, shape (categories, size)
            Mean and standard deviation of each component.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement set_components() to be the child of a MixtureComponent."
        )

    def init_new_batches(self, log_size_factor: Tensor, batch: Tensor) -> None:
        """Initialize the parameters of batches that the training data do not contain. The default does nothing.

        Parameters
        ----------
        log_size_factor : Tensor, shape (observations,)
            Logarithm of the size factor of each new observation.
        batch : Tensor, shape (observations,)
            Index of the batch of each observation.
        """

    def size_factor(self, value: Tensor, batch: Batch) -> Tensor:
        """Return the size factors ``[*sample, batch, 1]`` of a nuisance latent at its values."""
        raise NotImplementedError(f"{type(self).__name__} has is_nuisance=True and must implement size_factor().")

    @override
    def extra_repr(self) -> str:
        return f"size={self.size}, parents={list(self.parents)}"


def _are_names(names: Any) -> bool:
    """Return whether the argument is a list of different names."""
    is_list = isinstance(names, Sequence) and not isinstance(names, str) and all(isinstance(n, str) for n in names)
    return is_list and len(set(names)) == len(names)
