"""Coupling layers of normalizing flows, from the optional package zuko."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from typing import Literal

import torch
from torch import nn

from vaekit.exceptions import ConfigError, MissingPackageError, did_you_mean

Transform = Literal["spline", "affine"]
TRANSFORMS = ("spline", "affine")
NUM_BINS = 8  # of a spline, as in Durkan et al. (2019)
MIN_SLOPE = 0.05  # and 20 at most: with steeper layers, float32 loses the inverse
HIDDEN = (64, 64)  # widths of the network of each layer
NUM_PASSES = 2  # of the inverse: one half of the dimensions, then the other half given the first


def check_coupling_layers(owner: str, transform: str, num_layers: int) -> None:
    """Check the arguments of :func:`coupling_layers`, and that zuko is installed, without an import.

    Raises
    ------
    ConfigError
        If ``transform`` is unknown, or ``num_layers`` is below 1.
    MissingPackageError
        If zuko is not installed.
    """
    if transform not in TRANSFORMS:
        raise ConfigError(f"{owner}: transform={transform!r} not found. {did_you_mean(transform, TRANSFORMS)}")
    if num_layers < 1:
        raise ConfigError(f"{owner}: num_layers={num_layers} must be at least 1.")
    if find_spec("zuko") is None:
        raise MissingPackageError(f'{owner} needs zuko, which is not installed. Run: pip install "vaekit[flows]"')


def coupling_layers(dim: int, context: int, transform: Transform, num_layers: int) -> nn.Module:
    """Return coupling layers, a module that maps a context ``[..., context]`` to a transform of ``dim`` dimensions.

    The first layer transforms one half of the dimensions given the other half, the next one the other way round. Their
    last linear layers are 0, so that the transform is the identity at first. A spline is the identity outside of
    [-5, 5].

    Parameters
    ----------
    dim, context : int
        Number of dimensions, and width of the context (0: none, and the module is called without an argument).
    transform : str
        ``"spline"`` for monotonic rational-quadratic splines, or ``"affine"``.
    num_layers : int
        Number of layers.
    """
    from zuko.flows import MaskedAutoregressiveTransform
    from zuko.lazy import LazyComposedTransform
    from zuko.transforms import MonotonicAffineTransform, MonotonicRQSTransform

    shapes = {"spline": [(NUM_BINS,), (NUM_BINS,), (NUM_BINS - 1,)], "affine": [(), ()]}[transform]
    univariate = partial(
        {"spline": MonotonicRQSTransform, "affine": MonotonicAffineTransform}[transform], slope=MIN_SLOPE
    )
    layers = []
    for i in range(num_layers):
        order = torch.arange(dim) if i % 2 == 0 else torch.arange(dim).flip(0)
        options = {} if dim == 1 and not context else {"hidden_features": HIDDEN}
        layer = MaskedAutoregressiveTransform(
            dim, context, passes=NUM_PASSES, order=order, univariate=univariate, shapes=shapes, **options
        )
        # one dimension without a context has parameters instead of a network
        last = layer.hyper[-1] if hasattr(layer, "hyper") else layer
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        layers.append(layer)
    return LazyComposedTransform(*layers)
