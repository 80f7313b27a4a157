"""The state of every random number generator that a training may draw from, as plain data for a checkpoint."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


def get_rng_state() -> dict[str, Any]:
    """Return the states of torch (and its CUDA devices, where used), NumPy and Python; loads with ``weights_only``."""
    name, keys, *rest = np.random.get_state(legacy=True)
    version, numbers, gauss = random.getstate()
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": [str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "python": [version, list(numbers), gauss],
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Set the generators to the states that :func:`random_state` returned.

    Examples
    --------
    >>> state = get_rng_state()
    >>> first = torch.rand(2), np.random.rand(), random.random()
    >>> set_rng_state(state)
    >>> again = torch.rand(2), np.random.rand(), random.random()
    >>> first[0].equal(again[0]), first[1:] == again[1:]
    (True, True)
    """
    torch.set_rng_state(state["torch"].cpu())
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    cuda: list[Tensor] = state.get("cuda", [])
    if cuda and torch.cuda.is_available() and len(cuda) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([each.cpu() for each in cuda])
