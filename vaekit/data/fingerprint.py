"""Fingerprint of the content of data, and its comparison with that of a checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from vaekit.exceptions import DataError


def check_fingerprint(fingerprint: str, source: str, state: Mapping[str, Any] | None) -> None:
    """Raise a DataError if data do not have the fingerprint of a checkpoint's ``state``."""
    if state is not None and fingerprint != state["fingerprint"]:
        raise DataError(
            f"The checkpoint was trained on {state.get('source', 'other data')} with fingerprint "
            f"{state['fingerprint']} ({state['num_rows']} observations), but {source} has fingerprint {fingerprint}. "
            "Pass the same data and the same layer."
        )


def fingerprint(arrays: Iterable[np.ndarray], names: Iterable[Iterable[str]] = ()) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of arrays and lists of names, the same on every machine."""
    digest = hashlib.sha256()
    for array in arrays:
        portable = {"f": "<f4", "i": "<i8"}.get(array.dtype.kind, array.dtype)
        digest.update(str(array.shape).encode())
        for start in range(0, len(array), 2**20):  # in parts: indices are widened
            digest.update(np.ascontiguousarray(array[start : start + 2**20], dtype=portable).data)
    for group in names:
        digest.update("\n".join(group).encode() + b"\0")
    return digest.hexdigest()[:16]
