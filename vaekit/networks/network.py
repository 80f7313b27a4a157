"""The contract of a network."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from vaekit._core.components import Component


class Network(Component, nn.Module, ABC):
    """A module from ``[..., in_features]`` to ``[..., out_features]`` whose sizes flow from the data."""

    @abstractmethod
    def build(self, in_features: int) -> int:
        """Make the layers for ``in_features`` inputs and return the number of outputs."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return ``[..., out_features]``."""
