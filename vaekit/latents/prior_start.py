"""Priors that training holds fixed at first, and then fits to the posteriors of the data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from torch import Tensor, nn


class PriorStart(Protocol):
    """A prior that training holds fixed at first, and then starts at a fit to the posteriors of the data.

    Attributes
    ----------
    start_fraction : float
        Fraction of all training steps in which the prior is held.
    """

    start_fraction: float

    @property
    def num_states(self) -> int:
        """Number of states of the latent."""

    def hold_prior(self) -> list[nn.Parameter]:
        """Set the prior for the steps before the start, and return its parameters, which must not change in them."""

    def fit_prior(self, features: Iterable[Tensor], seed: int) -> tuple[Tensor, ...]:
        """Return the parameters of the prior that fits the posteriors at encoder features, each ``[batch, width]``."""

    def set_prior(self, parameters: tuple[Tensor, ...]) -> None:
        """Set the prior to the result of :meth:`fit_prior`: it has started."""
