"""The matrix that a ``layer`` argument names, as its path in an .h5ad file: /X, /raw/X or /layers/NAME."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from vaekit.exceptions import DataError, did_you_mean

if TYPE_CHECKING:
    from anndata import AnnData

X, RAW = "/X", "/raw/X"


def find_matrix(layer: str | None, layers: Collection[str], has_raw: bool, source: str) -> str:
    """Return the path of the matrix that ``layer`` names.

    Parameters
    ----------
    layer
        Name of a layer. Without a layer of that name, "raw" is ``.raw.X`` and "X" is ``.X``. None is ``.X``. A path
        ("/X", "/raw/X", "/layers/NAME") can only mean one matrix.
    layers, has_raw
        Layers of the cells, and whether they have a ``.raw``.
    source
        Name of the data in messages.

    Warns
    -----
    UserWarning
        If the layer hides ``.raw`` or ``.X``, which has the same name.

    Raises
    ------
    DataError
        If the matrix does not exist.
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
    known = [*layers, *(["raw"] if has_raw else []), "X"]
    name = layer_name(layer, layers) if layer.startswith("/") else layer
    raise DataError(f"layer={name!r}: {source} has no such layer. {did_you_mean(name, known)}")


def layer_name(path: str, layers: Collection[str]) -> str:
    """Return the shortest ``layer`` argument that means a matrix: a name, or a path if the name means another."""
    special = {X: "X", RAW: "raw"}.get(path)
    name = special or path.removeprefix("/layers/")
    hidden = name in layers if special else name in ("X", "raw") and name not in layers
    return path if hidden else name


def matrix_of_adata(adata: AnnData, layer: str | None, source: str) -> str:
    """Return the path of the matrix of an AnnData that ``layer`` names, by :func:`find_matrix`."""
    return find_matrix(layer, list(adata.layers), adata.raw is not None, source)


def matrix_of_store(store: Any, layer: str | None, source: str) -> str:
    """Return the path of the matrix of an open file that ``layer`` names, by :func:`find_matrix`."""
    return find_matrix(layer, list(store.get("layers", ())), "raw/X" in store or "raw.X" in store, source)


def stored_name(store: Any, path: str) -> str:
    """Return where a matrix is in an open file: its path, or "raw.X" in files of anndata 0.6 and older."""
    return "raw.X" if path == RAW and "raw.X" in store else path.removeprefix("/")


def counts_are_there(found: Collection[str], layers: Collection[str]) -> str:
    """Return the end of a message that names the matrices that hold counts."""
    named = ["leave layer out (.X)" if path == X else f"pass layer={layer_name(path, layers)!r}" for path in found]
    return "counts are there: " + " or ".join(named)
