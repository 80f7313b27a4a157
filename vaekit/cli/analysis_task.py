"""The steps that the commands for cells share: checks of the outputs, model, cells, result, figure, message."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vaekit._core.atomic import atomic_write
from vaekit.cli.cells import check_room
from vaekit.cli.input_cells import InputCells, resolve_cells
from vaekit.cli.output_files import OutputFiles, check_outputs, load_model

if TYPE_CHECKING:
    import pandas as pd

    from vaekit._core.figure_formats import FigureFormat
    from vaekit.models import VAE
    from vaekit.plotting.figure_files import Figure

CELLS_OR_TABLE = (".h5ad", ".csv")  # endings of a result with a row per cell
TABLE = (".csv",)
FIGURE_BYTES = 500_000  # approximate size of a figure


@dataclass(frozen=True)
class AnalysisTask:
    """Model, cells and outputs of a command, checked before its work begins.

    Attributes
    ----------
    checkpoint : str
        Path of the checkpoint.
    model : VAE
        Its model.
    input : InputCells
        Cells of the command, or the training data.
    files : OutputFiles
        Files to write.
    """

    checkpoint: str
    model: VAE
    input: InputCells
    files: OutputFiles

    @property
    def title(self) -> str:
        """Names of the cells' files for the title of a figure, or of the training data."""
        names = [Path(path).name for path in self.input.paths]
        return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "") if names else ""

    def check_room(self, num_bytes: int) -> None:
        """Raise an OutputError if the disk lacks room for a result of this size and its figure."""
        check_room(self.files.result, num_bytes + FIGURE_BYTES)

    def write_table(self, table: pd.DataFrame, index: bool = True) -> None:
        """Write a table as the .csv file."""
        with atomic_write(self.files.result) as temporary:
            table.to_csv(temporary, index=index)

    def finish(self, draw: Callable[[], Figure | None], summary: str) -> None:
        """Draw and write the figure of the written result, and print the files with a summary.

        Parameters
        ----------
        draw : callable
            Returns the figure, or None if there is nothing to draw. It is not called if the command does not write one.
        summary : str
            Last part of the message.
        """
        from vaekit.plotting import save_figure

        files = f"{self.files.result}"
        if self.files.figure is not None and (figure := draw()) is not None:
            save_figure(figure, self.files.figure)
            files += f" and {self.files.figure}"
        print(f"Wrote {files}: {summary}")


def start_task(
    checkpoint: str | Path,
    data: Sequence[str] | None,
    output: str | Path,
    endings: Sequence[str],
    *,
    layer: str | None = None,
    overwrite: bool = False,
    others: Sequence[str] = (),
    genes_in: str | None = None,
    figure: FigureFormat = "png",
) -> AnalysisTask:
    """Check the outputs of a command, load its model, and find its cells.

    Parameters
    ----------
    checkpoint : str or Path
        Checkpoint of a trained model.
    data : sequence of str or None
        Files of cells; None means the training data.
    output : str or Path
        File of the result.
    endings : sequence of str
        Endings of ``output`` that the command can write.
    layer : str or None
        Layer of the counts.
    overwrite : bool
        Whether existing outputs are replaced.
    others : sequence of str
        Further files that the command reads.
    genes_in : str or None
        Place of the genes in files whose form does not determine it (:func:`vaekit.data.read_cells`).
    figure : str
        Format of the figure, or "none".

    Raises
    ------
    DataError
        If an output has another ending, exists, or is an input.
    CheckpointError
        If the model or its training data cannot be loaded.
    """
    paths = [data] if isinstance(data, str) else list(data or ())
    files = check_outputs(output, endings, (checkpoint, *paths, *others), overwrite, figure)
    model = load_model(checkpoint, *filter(None, files))
    is_copy = files.result.suffix.lower() == ".h5ad"
    cells = resolve_cells(model, checkpoint, paths, layer, copied=is_copy, genes_in=genes_in)
    return AnalysisTask(str(checkpoint), model, cells, files)
