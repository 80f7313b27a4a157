"""Base class of the networks."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from vaekit._core.components import Component


class Network(Component, nn.Module, ABC):
    """Module from ``[..., in_features]`` to ``[..., out_features]`` that learns its input width from the model."""

    @abstractmethod
    def build(self, in_features: int) -> int:
        """Create the layers for ``in_features`` inputs and return the number of outputs."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return ``[..., out_features]``."""
