"""No network at all."""

from __future__ import annotations

from torch import Tensor

from vaekit.networks.network import Network


class Identity(Network):
    """Its outputs are its inputs: as a decoder, the likelihood's heads are linear in the latents, and can be read.

    Examples
    --------
    >>> import torch
    >>> network = Identity()
    >>> network.build(8), network(torch.ones(1)).item()
    (8, 1.0)
    """

    def build(self, in_features: int) -> int:
        """Return the number of inputs (see the base class)."""
        return in_features

    def forward(self, x: Tensor) -> Tensor:
        """Return the inputs."""
        return x
