"""Whether counts are read into memory, or stay in their files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

from vaekit.data.cells.backed_counts import is_csr, stored_bytes

Mode = Literal["auto", "in_memory", "streamed"]
MODES = get_args(Mode)
COPIES = 3  # of the counts while they are read: the file's, one in canonical form, one in float32


class Choice(NamedTuple):
    """What was chosen, and why, in words; nothing where there was no choice."""

    mode: Literal["in_memory", "streamed"]
    why: str


def choose_mode(mode: Mode, paths: Sequence[str], layer: str | None) -> Choice:
    """Return where counts go: for 'auto' by their size against half of the free memory.

    Counts that are not stored as CSR cannot stay in their files.

    Raises
    ------
    DataError
        If a file is missing or cannot be read.
    """
    if mode != "auto":
        return Choice(mode, "")
    if not all(is_csr(path, layer) for path in paths):
        return Choice("in_memory", "mode auto: counts that are not stored as CSR cannot stay in their files")
    import psutil

    needed = COPIES * sum(stored_bytes(path, layer) for path in paths)
    free = psutil.virtual_memory().available
    sizes = f"mode auto: to read the counts takes {_size(needed)}, and {_size(free)} of memory are free"
    return Choice("in_memory" if needed <= free / 2 else "streamed", sizes)


def _size(count: float) -> str:
    """Return a number of bytes in words."""
    return f"{count / 2**30:.3g} GiB" if count >= 2**30 else f"{count / 2**20:.3g} MiB"
