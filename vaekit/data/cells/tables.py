"""Tables of cells and genes in files, as every version of anndata has written them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit.exceptions import DataError

if TYPE_CHECKING:
    import pandas as pd


def read_table(store: Any, place: str, path: str) -> pd.DataFrame:
    """Read a table of an open file: "obs", "var" or that of ``.raw``.

    Raises
    ------
    DataError
        If it cannot be read.
    """
    from anndata.io import read_elem

    try:
        element = store[place]
        _check_room(element, f"{path}, {place}")
        return _decoded(_legacy_table(store, element) if hasattr(element, "shape") else read_elem(element))
    except DataError:
        raise
    except Exception as error:  # foreign content leads to errors of any class
        raise DataError(
            f"{path} cannot be read as .h5ad; its table {place} was not written by AnnData.write_h5ad "
            f"({error_line(error)})"
        ) from error


def num_bytes(element: Any) -> int:
    """Return the size of an array, or of all arrays of a group."""
    if hasattr(element, "shape"):
        return 0 if element.shape is None else int(element.nbytes)  # None: anndata's form of None
    return sum(num_bytes(element[name]) for name in element)


def _check_room(element: Any, where: str) -> None:
    """Raise a DataError if memory has no room for a table: some systems give more, and end the process later."""
    import psutil

    if (needed := num_bytes(element)) > (free := psutil.virtual_memory().available):
        raise DataError(
            f"{where} claims {needed / 2**30:.3g} GiB, and {free / 2**30:.3g} GiB of memory are free. The table is "
            "damaged; write the file again, or get it again."
        )


def error_line(error: Exception) -> str:
    """Return an error with its notes, in which anndata names the element, as one line."""
    return " ".join(f"{type(error).__name__}: {error} {' '.join(getattr(error, '__notes__', ()))}".split())


def column_names(element: Any) -> list[str]:
    """Return the names of the columns of a table of an open file."""
    if hasattr(element, "shape"):
        return [str(name) for name in element.dtype.names[1:]]
    return [str(name) for name in element.attrs.get("column-order", ())]


def _legacy_table(store: Any, element: Any) -> pd.DataFrame:
    """Return a table of anndata 0.6 and older: one array of records, whose categories are in ``.uns``."""
    import pandas as pd

    values = element[...]
    table = pd.DataFrame({name: _text(values[name]) for name in values.dtype.names})
    table = table.set_index(table.columns[0])
    for name in table.columns:
        place = f"uns/{name}_categories"
        codes = table[name].to_numpy()
        if place not in store or codes.dtype.kind not in "iu":
            continue
        categories = _text(np.atleast_1d(store[place][...]))
        # The key may be that of the other table, as anndata knows.
        if len(codes) == 0 or codes.max() < len(categories):
            table[name] = pd.Categorical.from_codes(codes, list(categories))
    return table


def _decoded(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose bytes are text; files that anndata did not write may have bytes."""
    import pandas as pd

    names = table.index.to_numpy()
    if (decoded := _text(names)) is not names:
        table.index = pd.Index(decoded, name=table.index.name)
    for name, column in table.items():
        if isinstance(column.dtype, pd.CategoricalDtype):
            if column.cat.categories.dtype == object:
                table[name] = column.cat.rename_categories(list(_text(column.cat.categories.to_numpy())))
        elif column.dtype == object:
            table[name] = _text(column.to_numpy())
    return table


def _text(values: np.ndarray) -> np.ndarray:
    """Return values with bytes decoded and numbers in the machine's own order of bytes."""
    if values.dtype.kind in "iuf":
        return values.astype(values.dtype.newbyteorder("="))
    if values.dtype.kind == "S" or (values.dtype == object and any(isinstance(value, bytes) for value in values)):
        decoded = [value.decode() if isinstance(value, bytes) else value for value in values.tolist()]
        return np.array(decoded, dtype=object)
    return values
