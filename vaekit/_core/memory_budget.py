"""Memory budgets: how much is read, copied or computed at a time, and checks of the free memory."""

from __future__ import annotations

import psutil
import torch

from vaekit.exceptions import DataError, format_bytes

CHUNK_CELLS = 4096  # cells read at once in the order of the file; part of the definition of a fingerprint
CHUNK_IMAGES = 4096  # images transformed at once: float32 copies and grids take up to thirty times their memory
CHUNK_BYTES = 64 * 2**20  # copied from one file to another at once
POOL_BYTES = 256 * 2**20  # of streamed counts that are shuffled together
MIN_BLOCK_CELLS, MAX_BLOCK_CELLS = 64, 2048  # streamed cells read at once
SIMULATED_VALUES = 2**22  # cells times genes simulated at once
DECODED_VALUES = 2**21  # samples times cells times genes decoded at once
EVALUATED_VALUES = 2**22  # samples times observations times features of importance sampling at once
REPLICATED_VALUES = 2**22  # per tensor of gradient estimates that are computed at once
MAX_NPZ_BYTES = 2**32  # of all arrays of an .npz file: a few kilobytes of it can be inflated to terabytes
MAX_IDX_BYTES = 2**30  # of an inflated file of MNIST, which has 47 million
LOADING_COPIES = 3  # of the counts while they are loaded: in the file's type, in canonical form, in float32
FREE_FRACTION = 0.5  # of the free memory that one data set may occupy


def free_memory(device: torch.device | None = None) -> int:
    """Return the free memory of the machine, or of a GPU, in bytes."""
    if device is not None and device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def check_memory(num_bytes: int, subject: str, remedy: str) -> None:
    """Check that the machine has room for an allocation: some systems grant more, and kill the process later.

    Parameters
    ----------
    num_bytes : int
        Size of the allocation.
    subject : str
        Name of the file or array in the message.
    remedy : str
        Sentence that ends the message.

    Raises
    ------
    DataError
        If the allocation exceeds the free memory and swap space.
    """
    free = free_memory()
    if num_bytes > free and num_bytes > (free := free + psutil.swap_memory().free):
        raise DataError(f"{subject} claims {format_bytes(num_bytes)}, but {format_bytes(free)} are free. {remedy}")
