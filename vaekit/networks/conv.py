"""Convolutional encoder and decoder of flattened pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from vaekit.exceptions import ConfigError
from vaekit.networks.network import Network

KERNEL = 3  # with stride 2 and padding 1 each layer halves a side, rounding up


class _Conv(Network):
    """What encoder and decoder share: the sides of the picture after each layer."""

    def __init__(self, shape: Sequence[int], channels: Sequence[int], hidden: int, normalize: bool) -> None:
        super().__init__()
        name = type(self).__name__
        if len(shape) != 3 or min(shape) < 1:
            raise ConfigError(
                f"{name}: shape is {list(shape)}; three positive numbers are needed: channels, height and width "
                "(data.image_shape), such as [1, 28, 28]"
            )
        if not channels or min(channels) < 1:
            raise ConfigError(f"{name}: channels is {list(channels)}, it must hold one positive number a layer")
        if hidden < 1:
            raise ConfigError(f"{name}: hidden is {hidden}, it must be positive")
        self.shape, self.channels, self.hidden, self.normalize = tuple(shape), list(channels), hidden, normalize
        sides = [(shape[1], shape[2])]
        for _ in channels:
            height, width = sides[-1]
            sides.append(((height + 1) // 2, (width + 1) // 2))
        self.sides = sides
        self.layers = nn.Sequential()

    def _append(self, layer: nn.Module, channels: int) -> None:
        """Append a layer, its normalization over channels and places of one picture, and a rectifier."""
        self.layers.append(layer)
        if self.normalize:
            self.layers.append(nn.GroupNorm(1, channels))
        self.layers.append(nn.ReLU())

    def _append_linear(self, in_features: int, out_features: int) -> None:
        self.layers.append(nn.Linear(in_features, out_features))
        if self.normalize:
            self.layers.append(nn.LayerNorm(out_features))
        self.layers.append(nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[*rows, out_features]`` of ``[*rows, in_features]``."""
        return self.layers(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


class ConvEncoder(_Conv):
    """Convolutions that each halve the picture, then one linear layer.

    Layer rather than batch normalization, as in :class:`MLP`.

    Parameters
    ----------
    shape
        Channels, height and width of a picture (``data.image_shape``), in whose order ``x`` is flattened.
    channels
        Channels of each layer.
    hidden
        Width of the linear layer: the number of outputs.
    normalize
        Whether to normalize over the features of each layer.

    Raises
    ------
    ConfigError
        If a size is not positive, or the pictures of the data have another shape.

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

    def build(self, in_features: int) -> int:
        """Make the layers (see the base class)."""
        if in_features != math.prod(self.shape):
            raise ConfigError(
                f"ConvEncoder: shape {list(self.shape)} has {math.prod(self.shape)} values, and the data (with their "
                f"covariates, which a convolution cannot see) have {in_features}; give encoder and decoder the data's "
                "image_shape: --model.encoder.shape and --model.decoder.shape"
            )
        self.layers.append(nn.Unflatten(-1, self.shape))
        before = self.shape[0]
        for channels in self.channels:
            self._append(nn.Conv2d(before, channels, KERNEL, stride=2, padding=1), channels)
            before = channels
        self.layers.append(nn.Flatten())
        self._append_linear(before * math.prod(self.sides[-1]), self.hidden)
        return self.hidden


class ConvDecoder(_Conv):
    """Two linear layers, then transposed convolutions that each double the picture: the encoder's mirror.

    Its outputs are ``maps`` features of each value of the picture, in the order of ``x``: a likelihood with
    ``pixelwise=True`` reads them with one small head for all places.

    Parameters
    ----------
    shape
        Channels, height and width of a picture (``data.image_shape``).
    channels
        Channels of each layer, from the last one to the first: the same list as the encoder's.
    hidden
        Width of the first linear layer.
    num_feature_maps
        Features of each value of the picture.
    normalize
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
            raise ConfigError(f"ConvDecoder: num_feature_maps is {num_feature_maps}, it must be positive")
        self.num_feature_maps = num_feature_maps

    def build(self, in_features: int) -> int:
        """Make the layers (see the base class)."""
        self._append_linear(in_features, self.hidden)
        start = (self.channels[-1], *self.sides[-1])
        self._append_linear(self.hidden, math.prod(start))
        self.layers.append(nn.Unflatten(-1, start))
        outputs = [*reversed(self.channels[:-1]), self.shape[0] * self.num_feature_maps]
        before = self.channels[-1]
        for i, channels in enumerate(outputs):
            small, large = self.sides[-1 - i], self.sides[-2 - i]
            extra = (large[0] - 2 * small[0] + 1, large[1] - 2 * small[1] + 1)  # what rounding up took off
            self._append(nn.ConvTranspose2d(before, channels, KERNEL, 2, padding=1, output_padding=extra), channels)
            before = channels
        return math.prod(self.shape) * self.num_feature_maps

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[*rows, channels * height * width * maps]``, the maps of a value side by side."""
        pictures = self.layers(x.reshape(-1, x.shape[-1])).unflatten(1, (self.shape[0], self.num_feature_maps))
        return pictures.movedim(2, -1).reshape(*x.shape[:-1], -1)
