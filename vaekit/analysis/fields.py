"""Names of the fields of an AnnData that results go into; no field of the user is replaced."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vaekit.exceptions import DataError

MARK = "training_fingerprint"  # every entry of .uns that vaekit writes says what its model was trained on


def check_free(places: Any, key_added: str, names: Mapping[str, Iterable[str]], owner: str) -> None:
    """Raise an error if a result would replace a field that vaekit did not write; before any work.

    Parameters
    ----------
    places
        AnnData, or the open file of one.
    key_added
        Argument that the names come from.
    names
        Names by their place, such as ``obs``.
    owner
        Entry of ``.uns`` that the result takes. If vaekit wrote the present one, the other names are of the same
        earlier result, and are replaced.

    Raises
    ------
    DataError
        If ``key_added`` is not a name that files can hold, or a name is taken.
    """
    if not isinstance(key_added, str) or {key_added.strip(), owner.strip()} & {"", "."} or {*key_added} & {*"/\0"}:
        raise DataError(f"key_added={key_added!r} is not a name that files can hold. Choose another one.")
    earlier = _place(places, "uns")
    if owner in earlier and hasattr(earlier[owner], "keys") and MARK in earlier[owner]:
        return
    for place, taken in {"uns": [owner], **names}.items():
        for name in taken:
            if name in _place(places, place):
                raise DataError(
                    f"key_added={key_added!r}: {place}[{name!r}] exists, and uns[{owner!r}] does not record that "
                    "vaekit wrote it (anndata.concat drops such records). Choose another name (key_added; --key_added "
                    f"of a command), or remove {place}[{name!r}]."
                )


def _place(places: Any, place: str) -> Any:
    """Return a mapping of an AnnData, or the group of an open file."""
    return places.get(place, {}) if hasattr(places, "get") else getattr(places, place)
