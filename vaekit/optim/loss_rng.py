"""RNG states of torch, which give two evaluations of a random loss common random numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor


class RNGState:
    """Current states of torch's global generators, on the CPU and on the CUDA devices of ``params``.

    The generators of NumPy and Python, and separate generators, are not included: SVRG rejects a loss that uses them.

    Parameters
    ----------
    params : Iterable[Tensor]
        Tensors on the devices of the loss.

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
        self._states = self._current_states()

    @contextlib.contextmanager
    def replayed(self) -> Iterator[None]:
        """Set the generators to these states within the block, and restore them afterwards."""
        with torch.random.fork_rng(self._devices):
            torch.set_rng_state(self._states[0])
            for device, state in zip(self._devices, self._states[1:], strict=True):
                torch.cuda.set_rng_state(state, device)
            yield

    @property
    def advanced(self) -> bool:
        """Whether random numbers were drawn since the creation of this object."""
        return not all(a.equal(b) for a, b in zip(self._states, self._current_states(), strict=True))

    def _current_states(self) -> list[Tensor]:
        return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in self._devices)]


def cuda_devices(params: Iterable[Tensor]) -> list[int]:
    """Return the indices of the CUDA devices of some tensors."""
    return sorted({p.device.index or 0 for p in params if p.is_cuda})
