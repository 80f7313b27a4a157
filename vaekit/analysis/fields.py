"""Names of the fields of an AnnData that hold results; fields of the user are never replaced."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vaekit.exceptions import DataError

MARK = "training_fingerprint"  # in every entry of .uns that vaekit writes: see vaekit.analysis.model_source.provenance


def check_free(places: Any, key_added: str, names: Mapping[str, Iterable[str]], owner: str) -> None:
    """Check that results do not replace fields that vaekit did not write; call it before any work.

    ``places`` is an AnnData, or the open file of one. ``names`` are the fields by their place, such as ``obs``.
    ``owner`` is the entry of ``.uns`` with the provenance. If vaekit wrote the present entry, the fields belong to an
    earlier result and may be replaced.
    """
    if not isinstance(key_added, str) or {key_added.strip(), owner.strip()} & {"", "."} or {*key_added} & {*"/\0"}:
        raise DataError(f"key_added={key_added!r} is not a name that files can hold. Choose another one.")
    present = _fields(places, "uns").get(owner)
    if MARK in getattr(present, "keys", tuple)():
        return
    for place, keys in {"uns": [owner], **names}.items():
        for key in keys:
            if key in _fields(places, place):
                raise DataError(
                    f"key_added={key_added!r}: {place}[{key!r}] exists, and uns[{owner!r}] does not record that "
                    "vaekit wrote it (anndata.concat drops such records). Choose another name (key_added; --key_added "
                    f"of a command), or remove {place}[{key!r}]."
                )


def _fields(places: Any, place: str) -> Any:
    """Return a mapping of an AnnData, or the group of an open file."""
    fields = getattr(places, place, None)
    return places.get(place, {}) if fields is None else fields
