"""Whether counts are read into memory, or stay in their files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from vaekit.data.stored import is_csr, stored_bytes

Mode = Literal["auto", "resident", "streamed"]
MODES = get_args(Mode)
COPIES = 3  # of the counts while they are read: the file's, one in canonical form, one in float32


def choose(mode: Mode, paths: Sequence[str], layer: str | None) -> Literal["resident", "streamed"]:
    """Return 'resident' or 'streamed': for 'auto' by the size of the counts against half of the free memory.

    Counts that are not stored as CSR cannot stay in their files.

    Raises
    ------
    DataError
        If a file is missing or cannot be read.
    """
    if mode != "auto":
        return mode
    if not all(is_csr(path, layer) for path in paths):
        return "resident"
    import psutil

    needed = COPIES * sum(stored_bytes(path, layer) for path in paths)
    return "resident" if needed <= psutil.virtual_memory().available / 2 else "streamed"
