"""Names of count matrices: a ``layer`` argument means a path in an .h5ad file, /X, /raw/X or /layers/NAME."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from typing import Any

from vaekit.exceptions import DataError, did_you_mean

X, RAW = "/X", "/raw/X"


def find_matrix(layer: str | None, layers: Collection[str], has_raw: bool, source: str) -> str:
    """Return the path of the matrix that ``layer`` names among ``layers``, ``.raw`` and ``.X``.

    If no layer has this name, "raw" means ``.raw.X`` and "X" means ``.X``. None means ``.X``. A path ("/X", "/raw/X",
    "/layers/NAME") means one matrix only. A layer that hides ``.raw`` or ``.X`` causes a warning.

    Raises
    ------
    DataError
        If the matrix does not exist in ``source``.
    """
    if layer is None:
        return X
    path = f"/layers/{layer}"
    special = {"raw": RAW, "X": X}.get(layer)
    if layer in layers:
        if special == X or (special == RAW and has_raw):
            warnings.warn(
                f"layer={layer!r}: {source} has .layers[{layer!r}] and .{layer}; the layer is read. Pass "
                f"layer={special!r} for .{layer}, or layer={path!r} for the layer without this warning.",
                UserWarning,
                stacklevel=2,
            )
        return path
    path = special or (layer if layer.startswith("/") else path)
    if path == X or (path == RAW and has_raw) or path.removeprefix("/layers/") in layers:
        return path
    name = layer_name(layer, layers) if layer.startswith("/") else layer
    hint = did_you_mean(name, [*layers, *(["raw"] if has_raw else []), "X"])
    raise DataError(f"layer={name!r} not found in {source}. {hint}")


def layer_name(path: str, layers: Collection[str]) -> str:
    """Return the shortest ``layer`` argument that means a matrix: its name, or its path if the name is ambiguous."""
    special = {X: "X", RAW: "raw"}.get(path)
    name = special or path.removeprefix("/layers/")
    ambiguous = name in layers if special else name in ("X", "raw") and name not in layers
    return path if ambiguous else name


def matrix_attribute(path: str) -> str:
    """Return a matrix as an attribute of an AnnData, for messages.

    Examples
    --------
    >>> matrix_attribute("/raw/X"), matrix_attribute("/layers/counts")
    ('.raw.X', ".layers['counts']")
    """
    return {X: ".X", RAW: ".raw.X"}.get(path, f".layers[{path.removeprefix('/layers/')!r}]")


def find_stored_matrix(store: Any, layer: str | None, source: str) -> str:
    """Return the path of the matrix of an open file that ``layer`` names, by :func:`find_matrix`."""
    return find_matrix(layer, list(store.get("layers", ())), "raw/X" in store or "raw.X" in store, source)


def stored_name(store: Any, path: str) -> str:
    """Return the key of a matrix in an open file; it is "raw.X" in files of anndata 0.6 and older."""
    return "raw.X" if path == RAW and "raw.X" in store else path.removeprefix("/")
