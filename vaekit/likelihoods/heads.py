"""Heads of pixel likelihoods: from the decoder's features to the parameters of each pixel value."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vaekit.exceptions import ConfigError


class PixelwiseLinear(nn.Module):
    """One small linear map for all places, and a bias of each parameter: what a convolutional decoder needs.

    Parameters
    ----------
    in_features
        Decoder features: as many for each of the ``features``, side by side.
    features
        Observed values.
    parameters
        Outputs for each of them, side by side.

    Raises
    ------
    ConfigError
        If the decoder's features are no multiple of the observed values.
    """

    def __init__(self, in_features: int, features: int, parameters: int) -> None:
        super().__init__()
        if in_features % features:
            raise ConfigError(
                f"pixelwise=True needs a decoder with as many features for each of the {features} values (ConvDecoder), "
                f"and this one has {in_features} in all; leave local out for another decoder"
            )
        self.features = features
        self.mix = nn.Linear(in_features // features, parameters, bias=False)
        self.bias = nn.Parameter(torch.zeros(features * parameters))

    def forward(self, h: Tensor) -> Tensor:
        """Return ``[*rows, features * parameters]`` of ``[*rows, in_features]``."""
        return self.mix(h.unflatten(-1, (self.features, -1))).flatten(-2) + self.bias


def head(in_features: int, features: int, local: bool, parameters: int = 1) -> nn.Linear | PixelwiseLinear:
    """Return a dense head, or a local one; both have a ``bias`` ``[features * parameters]``."""
    if local:
        return PixelwiseLinear(in_features, features, parameters)
    return nn.Linear(in_features, features * parameters)
