"""Finds operations that would wait for a GPU, on any device."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vaekit.models import VAE
from vaekit.models.parameter_groups import ParameterGroups

aten = torch.ops.aten
# Their result is a number for Python, or has a shape that depends on values.
WAIT = (
    aten._local_scalar_dense,
    aten.equal,
    aten.nonzero,
    aten.masked_select,
    aten._unique2,
    aten.unique_dim,
    aten.unique_consecutive,
    aten.bincount,
    aten.is_nonzero,
    aten.allclose,
)


class NoWaiting(TorchDispatchMode):
    """Refuses operations that wait for the device; ``repeat_interleave`` waits unless it is told the size."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket
        unsized = packet is aten.repeat_interleave and kwargs.get("output_size") is None
        masked = packet in (aten.index, aten.index_put, aten.index_put_) and any(
            each is not None and each.dtype in (torch.bool, torch.uint8) for each in args[1]
        )
        if masked and packet is not aten.index and args[2].dim() == 0 and not any(args[3:]) and not kwargs:
            masked = False  # of one number of Python's torch makes a masked_fill, which does not wait
        if packet in WAIT or unsized or masked:
            raise AssertionError(f"{func} waits for the device")
        return func(*args, **kwargs)


def make_optimizer(model: VAE, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """Return the optimizer of a model that no trainer holds."""
    model._groups = ParameterGroups.from_model(model.networks, model.parameters())
    return model._groups.make_optimizer(learning_rate, weight_decay)
