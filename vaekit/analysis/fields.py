"""Check of the names of result fields in an AnnData, so that fields of the user are never replaced."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vaekit.exceptions import DataError

MARK = "training_fingerprint"  # in every entry of .uns that vaekit writes: see vaekit.analysis.model_source.provenance


def check_free(places: Any, key_added: str, names: Mapping[str, Iterable[str]], owner: str) -> None:
    """Check that results do not replace fields that vaekit did not write; call it before any work.

    ``places`` is an AnnData, or the open file of one. ``names`` lists the fields by attribute, such as ``obs``.
    ``owner`` is the entry of ``.uns`` with the provenance. If vaekit wrote an existing entry, the fields belong to an
    earlier result and may be replaced.
    """
    if not isinstance(key_added, str) or {key_added.strip(), owner.strip()} & {"", "."} or {*key_added} & {*"/\0"}:
        raise DataError(f"key_added={key_added!r} is not a name that files can hold. Choose another one.")
    provenance = _fields(places, "uns").get(owner)
    if MARK in getattr(provenance, "keys", tuple)():
        return
    for attribute, keys in {"uns": [owner], **names}.items():
        for key in keys:
            if key in _fields(places, attribute):
                raise DataError(
                    f"key_added={key_added!r}: {attribute}[{key!r}] exists, and uns[{owner!r}] does not record that "
                    "vaekit wrote it (anndata.concat drops such records). Choose another name (key_added; --key_added "
                    f"of a command), or remove {attribute}[{key!r}]."
                )


def _fields(places: Any, attribute: str) -> Any:
    """Return a mapping of an AnnData, or the group of an open file."""
    fields = getattr(places, attribute, None)
    return places.get(attribute, {}) if fields is None else fields
