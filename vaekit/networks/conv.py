"""Convolutional encoder and decoder of flattened images."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from typing_extensions import override

from vaekit.exceptions import ConfigError
from vaekit.networks.network import Network

KERNEL_SIZE = 3  # with stride 2 and padding 1 each layer halves the sides of an image, rounded up


class _ConvNetwork(Network):
    """Base class of encoder and decoder, with the sides of the image after each layer."""

    def __init__(self, shape: Sequence[int], channels: Sequence[int], hidden: int, normalize: bool) -> None:
        super().__init__()
        name = type(self).__name__
        if len(shape) != 3 or min(shape) < 1:
            raise ConfigError(
                f"{name}: shape={list(shape)} must contain three positive numbers: channels, height and width "
                "(data.image_shape), such as [1, 28, 28]."
            )
        if not channels or min(channels) < 1:
            raise ConfigError(f"{name}: channels={list(channels)} must contain one positive number per layer.")
        if hidden < 1:
            raise ConfigError(f"{name}: hidden={hidden} must be positive.")
        self.shape, self.channels, self.hidden, self.normalize = tuple(shape), list(channels), hidden, normalize
        self.sides = [(shape[1], shape[2])]
        for _ in channels:
            height, width = self.sides[-1]
            self.sides.append(((height + 1) // 2, (width + 1) // 2))
        self.layers = nn.Sequential()

    def _append(self, layer: nn.Module, norm: nn.Module) -> None:
        """Append a layer, its normalization over all features of one image, and a rectifier."""
        self.layers.append(layer)
        if self.normalize:
            self.layers.append(norm)
        self.layers.append(nn.ReLU())

    def _append_linear(self, in_features: int, out_features: int) -> None:
        self._append(nn.Linear(in_features, out_features), nn.LayerNorm(out_features))

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


class ConvEncoder(_ConvNetwork):
    """Convolutions that each halve the sides of the image, then one linear layer.

    Like :class:`vaekit.networks.MLP`, it uses layer normalization instead of batch normalization.

    Parameters
    ----------
    shape : sequence of int
        Channels, height and width of an image (``data.image_shape``), the order in which ``x`` is flattened.
    channels : sequence of int
        Number of channels of each layer.
    hidden : int
        Width of the linear layer, which is the number of outputs.
    normalize : bool
        Whether to normalize over the features of each layer.

    Raises
    ------
    ConfigError
        If a size is not positive, or the images of the data have another shape.

    Examples
    --------
    >>> import torch
    >>> network = ConvEncoder([1, 28, 28], [8, 16], hidden=32)
    >>> network.build(784)
    32
    >>> network(torch.zeros(2, 5, 784)).shape
    torch.Size([2, 5, 32])
    """

    def __init__(
        self, shape: Sequence[int], channels: Sequence[int] = (32, 64), hidden: int = 256, normalize: bool = True
    ) -> None:
        super().__init__(shape, channels, hidden, normalize)

    @override
    def build(self, in_features: int) -> int:
        if in_features != math.prod(self.shape):
            raise ConfigError(
                f"ConvEncoder: shape={list(self.shape)} has {math.prod(self.shape)} values, but the data (with "
                f"covariates, which a convolution does not support) have {in_features}. Give encoder and decoder the "
                "data's image_shape: --model.encoder.shape and --model.decoder.shape"
            )
        self.layers.append(nn.Unflatten(-1, self.shape))
        for in_channels, channels in zip((self.shape[0], *self.channels), self.channels, strict=False):
            conv = nn.Conv2d(in_channels, channels, KERNEL_SIZE, stride=2, padding=1)
            self._append(conv, nn.GroupNorm(1, channels))
        self.layers.append(nn.Flatten())
        self._append_linear(self.channels[-1] * math.prod(self.sides[-1]), self.hidden)
        return self.hidden


class ConvDecoder(_ConvNetwork):
    """Two linear layers, then transposed convolutions that each double the sides of the image.

    It mirrors the encoder. The outputs are ``num_feature_maps`` features per value of the image, in the order of ``x``.
    A likelihood with ``pixelwise=True`` applies one small head to all values.

    Parameters
    ----------
    shape : sequence of int
        Channels, height and width of an image (``data.image_shape``).
    channels : sequence of int
        Number of channels of each layer, from the last to the first, which is the list of the encoder.
    hidden : int
        Width of the first linear layer.
    num_feature_maps : int
        Number of features per value of the image.
    normalize : bool
        Whether to normalize over the features of each layer.

    Raises
    ------
    ConfigError
        If a size is not positive.

    Examples
    --------
    >>> import torch
    >>> network = ConvDecoder([3, 32, 32], [8, 16], hidden=32, num_feature_maps=4)
    >>> network.build(10) == 3 * 32 * 32 * 4
    True
    >>> network(torch.zeros(2, 5, 10)).shape
    torch.Size([2, 5, 12288])
    """

    def __init__(
        self,
        shape: Sequence[int],
        channels: Sequence[int] = (32, 64),
        hidden: int = 256,
        num_feature_maps: int = 8,
        normalize: bool = True,
    ) -> None:
        super().__init__(shape, channels, hidden, normalize)
        if num_feature_maps < 1:
            raise ConfigError(f"ConvDecoder: num_feature_maps={num_feature_maps} must be positive.")
        self.num_feature_maps = num_feature_maps

    @override
    def build(self, in_features: int) -> int:
        smallest = (self.channels[-1], *self.sides[-1])
        self._append_linear(in_features, self.hidden)
        self._append_linear(self.hidden, math.prod(smallest))
        self.layers.append(nn.Unflatten(-1, smallest))
        out_channels = [*reversed(self.channels[:-1]), self.shape[0] * self.num_feature_maps]
        for i, channels in enumerate(out_channels):
            small, large = self.sides[-1 - i], self.sides[-2 - i]
            padding = (large[0] - 2 * small[0] + 1, large[1] - 2 * small[1] + 1)  # the encoder rounds sides up
            in_channels = self.channels[-1 - i]
            conv = nn.ConvTranspose2d(in_channels, channels, KERNEL_SIZE, 2, padding=1, output_padding=padding)
            self._append(conv, nn.GroupNorm(1, channels))
        return math.prod(self.shape) * self.num_feature_maps

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Return ``[..., channels * height * width * num_feature_maps]``, all feature maps of a value together."""
        maps = self.layers(x.reshape(-1, x.shape[-1])).unflatten(1, (self.shape[0], self.num_feature_maps))
        return maps.movedim(2, -1).reshape(*x.shape[:-1], -1)
