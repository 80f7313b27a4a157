"""Identity network."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import override

from vaekit.networks.network import Network


class Identity(Network):
    """Network without layers. As a decoder, it makes the heads of the likelihood linear in the latents.

    Examples
    --------
    >>> import torch
    >>> network = Identity()
    >>> network.build(8), network(torch.ones(1)).item()
    (8, 1.0)
    """

    @override
    def build(self, in_features: int) -> int:
        return in_features

    @override
    def forward(self, x: Tensor) -> Tensor:
        return x
