"""Values of a latent variable: their kind and shape, summaries, states, activity and names."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.distributions import Distribution

from vaekit.latents.activity import (
    ACTIVE_PROBABILITY,
    ACTIVE_VARIANCE,
    dimension_activity,
    state_activity,
    sum_moments,
)


class LatentValues:
    """Description of the values of a latent, which other modules ask for: it has no parameters.

    Attributes
    ----------
    size : int
        Number of values that the decoder sees.
    discrete : bool
        Whether the values are codes, not coordinates.
    is_nuisance : bool
        Whether it describes the measurement (the library size), not the observation. The decoder and embeddings
        ignore it; the likelihood uses its :meth:`Latent.size_factor`.
    is_categorical : bool
        Whether the values are one-hot vectors, so that the summary contains the probabilities of the categories.
    is_proportions : bool
        Whether the values are proportions of ``size`` parts, which sum to 1, such as topics.
    supports_traversal : bool
        Whether a dimension can be moved by standard deviations of its prior.
    has_normal_posterior : bool
        Whether the posterior is a diagonal normal, described by its ``mean`` and ``variance``.
    unit : str
        Name of one of the ``size`` values in messages.
    event_dim : int
        Number of event dimensions of a value.
    state_shape : tuple[int, int] or None
        Number of variables and of states per variable, whose probabilities sum to 1; for topics, 1 and their number.
        None if there are no states.
    variable_names : tuple[str, ...]
        Names of the variables, if they have names.
    """

    size: int
    discrete: ClassVar[bool] = False
    is_nuisance: ClassVar[bool] = False
    is_categorical: ClassVar[bool] = False
    is_proportions: ClassVar[bool] = False
    supports_traversal: ClassVar[bool] = False
    has_normal_posterior: ClassVar[bool] = False
    unit: ClassVar[str] = "dimension"
    event_dim: ClassVar[int] = 1
    state_shape: tuple[int, int] | None = None
    variable_names: tuple[str, ...] = ()

    def summary(self, q: Distribution) -> Tensor:
        """Return the values that an embedding stores, ``[batch, size]``: posterior means, or probabilities of codes."""
        return q.mean

    def point_estimate(self, q: Distribution) -> Tensor:
        """Return one value that represents ``q``, ``[*batch, *event]``: its mean, or the most probable code."""
        return q.mean

    def flatten(self, value: Tensor) -> Tensor:
        """Return values ``[..., *event]`` as ``[..., size]``, as the decoder sees them."""
        return value.reshape(*value.shape[: value.dim() - self.event_dim], self.size)

    @property
    def event_size(self) -> int:
        """Number of elements of a value, of which the decoder may see fewer."""
        return self.size

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
