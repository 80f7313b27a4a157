"""The memory that a model's weights take, told before it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import psutil
import torch
from torch.overrides import TorchFunctionMode

from vaekit.exceptions import ConfigError

MAKING = (torch.empty, torch.zeros, torch.ones, torch.full, torch.eye, torch.rand, torch.randn, torch.arange,
          torch.linspace)  # fmt: skip


class Budget(TorchFunctionMode):
    """Mode in which tensors are made only as long as they fit into memory together.

    Parameters
    ----------
    arguments
        Arguments of the model, of which the message names the largest number.

    Raises
    ------
    ConfigError
        If a tensor would not fit.
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        super().__init__()
        self._arguments = arguments
        self._used = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function of torch, after a look at what it would allocate."""
        kwargs = kwargs or {}
        if func in MAKING:
            try:
                made = func(*args, **{**kwargs, "device": "meta"})
                self._used += made.numel() * made.element_size()
            except RuntimeError as error:  # a size that overflows 64 bits
                raise self._error(f"{error}") from None
            if self._used > psutil.virtual_memory().available:
                raise self._error(f"a tensor of shape {list(made.shape)} does not fit")
        return func(*args, **kwargs)

    def _error(self, why: str) -> ConfigError:
        name, number = max(_numbers(self._arguments), key=lambda item: item[1], default=("features", 0))
        free = psutil.virtual_memory().available / 2**30
        return ConfigError(
            f"{name}={number}: the model takes more than the {free:.3g} GiB of free memory ({why}). Lower it."
        )


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, int]]:
    """Yield the integers of plain data with their keys."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _numbers(item, name if key == "init_args" else f"{name}.{key}".removeprefix("."))
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from _numbers(item, f"{name}[{i}]")
    elif isinstance(value, int):
        yield name, value
