"""Check that the weights of a model fit into memory, before they are allocated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from vaekit._core.memory_budget import free_memory
from vaekit.exceptions import ConfigError

FACTORIES = (torch.empty, torch.zeros, torch.ones, torch.full, torch.eye, torch.rand, torch.randn, torch.arange,
             torch.linspace)  # fmt: skip


class MemoryBudget(TorchFunctionMode):
    """Mode in which new tensors must fit into the available memory together.

    Parameters
    ----------
    arguments : Mapping[str, Any]
        Arguments of the model. The error message names the largest integer among them.

    Raises
    ------
    ConfigError
        If a tensor does not fit.
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        super().__init__()
        self._arguments, self._num_bytes = arguments, 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function of torch; first check the size of the tensor that it would create."""
        kwargs = kwargs or {}
        if func in FACTORIES:
            try:
                tensor = func(*args, **{**kwargs, "device": "meta"})
                self._num_bytes += tensor.numel() * tensor.element_size()
            except RuntimeError as error:  # the size overflows 64 bits
                raise self._error(f"{error}") from None
            if self._num_bytes > free_memory():
                raise self._error(f"a tensor of shape {list(tensor.shape)} does not fit")
        return func(*args, **kwargs)

    def _error(self, reason: str) -> ConfigError:
        name, value = max(_integers(self._arguments), key=lambda item: item[1], default=("features", 0))
        gigabytes = free_memory() / 2**30
        return ConfigError(
            f"VAE: {name}={value} needs more than the {gigabytes:.3g} GiB of available memory ({reason}). Reduce it."
        )


def _integers(value: Any, name: str = "") -> Iterator[tuple[str, int]]:
    """Yield the integers of plain data with their keys."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _integers(item, name if key == "init_args" else f"{name}.{key}".removeprefix("."))
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from _integers(item, f"{name}[{i}]")
    elif isinstance(value, int):
        yield name, value
