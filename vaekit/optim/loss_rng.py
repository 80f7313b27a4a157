"""States of torch's global generators: what makes two evaluations of a random loss draw the same numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor


class RNGState:
    """The states of torch's global generators at the time of its making.

    Those of the CPU and of the CUDA devices that hold ``params``. NumPy's and Python's generators, and generators of
    one's own, are not among them.

    Parameters
    ----------
    params
        Tensors; their devices count.

    Examples
    --------
    >>> state = RNGState([])
    >>> first = torch.rand(3)
    >>> with state.replayed():
    ...     second = torch.rand(3)
    >>> first.equal(second), state.advanced
    (True, True)
    """

    def __init__(self, params: Iterable[Tensor]) -> None:
        self._devices = cuda_devices(params)
        self._states = self._now()

    @contextlib.contextmanager
    def replayed(self) -> Iterator[None]:
        """Draw within from these states; afterwards the generators are as they were before."""
        with torch.random.fork_rng(self._devices):
            torch.set_rng_state(self._states[0])
            for device, state in zip(self._devices, self._states[1:], strict=True):
                torch.cuda.set_rng_state(state, device)
            yield

    @property
    def advanced(self) -> bool:
        """Whether numbers have been drawn since."""
        return not all(a.equal(b) for a, b in zip(self._states, self._now(), strict=True))

    def _now(self) -> list[Tensor]:
        return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in self._devices)]


def cuda_devices(params: Iterable[Tensor]) -> list[int]:
    """Return the numbers of the CUDA devices that hold tensors."""
    return sorted({p.device.index or 0 for p in params if p.is_cuda})
