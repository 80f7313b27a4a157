"""Results with a row per cell, written as a copy of the cells or as a table."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from vaekit._core.atomic import atomic_write
from vaekit.cli.cells import check_room, open_output_copy, write_fields
from vaekit.data.cells.file_names import FILE_COLUMN

if TYPE_CHECKING:
    from vaekit.cli.analysis_task import AnalysisTask
    from vaekit.data.cells.query import QueryData

TEXT_FACTOR = 4  # bytes of a number as text over its bytes as float32


class CellResult(ABC):
    """Result with a row per cell that is being written.

    Attributes
    ----------
    fields : mapping
        Fields of the cells, by attribute of an AnnData; new fields must not replace them.
    """

    fields: Any

    @abstractmethod
    def write(self, fields: Mapping[str, Mapping[str, Any]]) -> None:
        """Add fields by attribute of an AnnData (``obs``, ``obsm``, ``uns``) and key."""


class _CopyResult(CellResult):
    """Fields in an open copy of the cells' .h5ad file."""

    def __init__(self, file: Any) -> None:
        self.fields = file

    @override
    def write(self, fields: Mapping[str, Mapping[str, Any]]) -> None:
        for location, values in fields.items():
            write_fields(self.fields, location, values)


class _TableResult(CellResult):
    """Columns of a table; ``obsm`` gives a column per dimension, named by the labels in ``uns`` if there are any."""

    def __init__(self, query: QueryData) -> None:
        import pandas as pd

        self.fields: dict[str, Any] = {}
        index = pd.Index(query.obs_names, name="cell")
        self.columns = [query.adata.obs[[key]].set_axis(index) for key in [FILE_COLUMN] if key in query.adata.obs]
        self.index = index

    @override
    def write(self, fields: Mapping[str, Mapping[str, Any]]) -> None:
        import pandas as pd

        self.columns.append(pd.DataFrame(dict(fields.get("obs", {})), index=self.index))
        labels = [record["labels"] for record in fields.get("uns", {}).values() if "labels" in record]
        for key, values in fields.get("obsm", {}).items():
            part = pd.DataFrame(values).set_axis(self.index)
            if not isinstance(values, pd.DataFrame):
                names = next((each for each in labels if len(each) == part.shape[1]), part.columns)
                part = part.set_axis([f"{key}_{name}" for name in names], axis=1)
            self.columns.append(part)


@contextmanager
def open_result(task: AnalysisTask, query: QueryData, num_bytes: int) -> Iterator[CellResult]:
    """Yield the result of a task, which is written completely or not at all when the block ends.

    A file with the ending .h5ad is a copy of the cells with the fields of the result. A .csv file has a row per cell,
    with a column per field of ``obs`` and per dimension of ``obsm``.

    Parameters
    ----------
    task : AnalysisTask
        Task of the command.
    query : QueryData
        Its cells.
    num_bytes : int
        Size of the fields as float32.

    Raises
    ------
    OutputError
        If the file cannot be written.
    """
    output = task.files.result
    if output.suffix.lower() == ".h5ad":
        with open_output_copy(task.input.cells, query, output, num_bytes) as file:
            yield _CopyResult(file)
        return
    import pandas as pd

    check_room(output, TEXT_FACTOR * num_bytes)
    with atomic_write(output) as temporary:
        table = _TableResult(query)
        yield table
        pd.concat(table.columns, axis=1).to_csv(temporary)
