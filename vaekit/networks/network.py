"""Base class of the networks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from vaekit._core.components import Component


class Network(Component, nn.Module, ABC):
    """Module from ``[..., in_features]`` to ``[..., out_features]`` that learns its input width from the model.

    Attributes
    ----------
    is_additive : bool
        Whether each output of a decoder depends on one of its inputs, so that a linear head adds up the contributions
        of the inputs.

    Examples
    --------
    A network of the user's own, for a model in Python:

    >>> import torch, vaekit
    >>> class Dense(vaekit.networks.Network):
    ...     def build(self, in_features):
    ...         self.layer = torch.nn.Linear(in_features, 4)
    ...         return 4
    ...
    ...     def forward(self, x):
    ...         return self.layer(x)
    >>> network = Dense()
    >>> network.build(8), network(torch.zeros(5, 8)).shape
    (4, torch.Size([5, 4]))
    """

    is_additive: ClassVar[bool] = False

    @abstractmethod
    def build(self, in_features: int) -> int:
        """Create the layers for ``in_features`` inputs and return the number of outputs."""

    def build_decoder(self, units: int, covariates: int) -> int:
        """Create the layers of a decoder, whose inputs are ``units`` values of the latents, then the covariates.

        Returns the number of outputs. The default treats all inputs alike. If the number of outputs depends on
        ``covariates``, these must be the last outputs, so that :func:`vaekit.analysis.map_query` can add batches.
        """
        return self.build(units + covariates)

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return ``[..., out_features]``."""
