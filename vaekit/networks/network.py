"""Base class of the networks."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from vaekit._core.components import Component


class Network(Component, nn.Module, ABC):
    """Module from ``[..., in_features]`` to ``[..., out_features]`` that learns its input width from the model.

    Examples
    --------
    A network of the user's own, for a model in Python:

    >>> import torch, vaekit
    >>> class Linear(vaekit.networks.Network):
    ...     def build(self, in_features):
    ...         self.layer = torch.nn.Linear(in_features, 4)
    ...         return 4
    ...
    ...     def forward(self, x):
    ...         return self.layer(x)
    >>> network = Linear()
    >>> network.build(8), network(torch.zeros(5, 8)).shape
    (4, torch.Size([5, 4]))
    """

    @abstractmethod
    def build(self, in_features: int) -> int:
        """Create the layers for ``in_features`` inputs and return the number of outputs."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return ``[..., out_features]``."""
