"""Earlier name of the linear decoder."""

from __future__ import annotations

from vaekit.networks.linear_decoder import Linear


class Identity(Linear):
    """Earlier name of :class:`vaekit.networks.Linear`, for configurations and checkpoints that contain it.

    Examples
    --------
    >>> import torch
    >>> network = Identity()
    >>> network.build(8), network(torch.ones(1)).item()
    (8, 1.0)
    """
