"""Command that predicts labels, also for Python: ``vaekit.cli.label_commands.labels(...)``.

The signature and the docstring are the command line (:mod:`vaekit.cli.command_parser`). Slow libraries are imported
inside the functions, so that the help of a command is fast.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaekit._core.figure_formats import FigureFormat
from vaekit.cli.analysis_task import CELLS_OR_TABLE, start_task
from vaekit.cli.cell_results import open_result

if TYPE_CHECKING:
    from vaekit.data.cells.query import QueryData
    from vaekit.data.figure_columns import FigureColumns
    from vaekit.models import VAE
    from vaekit.plotting.figure_files import Figure

NUM_FIELDS = 5  # per cell
PANEL = "predicted label"


def labels(
    checkpoint: str | Path,
    data: list[str] | None = None,
    *,
    output: str | Path,
    training_data: list[str] | None = None,
    max_novelty: float | None = None,
    key_added: str | None = None,
    layer: str | None = None,
    genes_in: str | None = None,
    batch_key: str | None = None,
    color: list[str] | None = None,
    figure: FigureFormat = "png",
    overwrite: bool = False,
) -> None:
    """Label cells by a model that was trained on the labels of some cells.

    obs["LABEL_predicted"] contains the labels, and obs["LABEL_predicted_NAME"] for the names probability, second (best
    label), uncertainty (to rank cells, also of other technologies) and novelty (high for types without labels).
    obsm["LABEL_predicted_probabilities"] contains the probabilities of all labels, whose names are in uns.
    Labeled cells of the validation and test split calibrate the probabilities. The figure shows the number and the
    uncertainty of the cells of each label, and both on a UMAP.

    Parameters
    ----------
    checkpoint, data, layer, batch_key, overwrite, color, figure
        As for every command (:data:`vaekit.cli.common_arguments.DESCRIPTIONS`).
    output : str or Path
        .h5ad file (a copy of the cells) or .csv file to write. The figure has the same name with the ending .png.
    training_data : list of str, optional
        Files of the training data with their labels. None: their path in training.
    max_novelty : float, optional
        Novelty above which a cell is called Unknown; 1 calls about 5 % of known types so. None: no cell is.

    Other Parameters
    ----------------
    key_added : str, optional
        Name in obs and uns. None: the label column with the ending _predicted.
    genes_in
        As for every command.

    Examples
    --------
    vaekit labels RUN/last.ckpt new.h5ad -o labeled.h5ad
    """
    import numpy as np

    from vaekit.analysis.label_predictor import LabelPredictor, load_labeled_data
    from vaekit.analysis.predict_labels import (
        check_max_novelty,
        check_prediction_fields,
        prediction_fields,
        prediction_key,
    )

    check_max_novelty(max_novelty)
    task = start_task(
        checkpoint, data, output, CELLS_OR_TABLE, layer=layer, genes_in=genes_in, overwrite=overwrite,
        others=training_data or (), figure=figure,
    )  # fmt: skip
    model = task.model
    key_added = prediction_key(model, key_added)
    source = task.input.open(model)
    columns = task.input.figure_columns(model, source, color, batch_key)
    query = task.input.prepare(model, batch_key, source=source)
    with open_result(task, query, 4 * (NUM_FIELDS + len(model.label_names)) * len(query.dataset)) as result:
        check_prediction_fields(result.fields, key_added)
        labeled = load_labeled_data(model, task.input.cells, training_data)
        predictor = LabelPredictor(model, labeled, progress=True, observed=query.dataset.observed)
        fields = prediction_fields(predictor, query, key_added, max_novelty, True, task.checkpoint)
        result.write(fields)
    obs = fields["obs"]
    probability = np.median(obs[f"{key_added}_probability"])
    unknown = int((obs[key_added] == obs[key_added].categories[-1]).sum()) if max_novelty is not None else 0
    task.finish(
        lambda: _plot(model, query, obs, key_added, columns, task.title),
        f"{len(query.dataset)} cells, {len(model.label_names)} labels, median probability {probability:.2f}"
        + f", {unknown} unknown" * (max_novelty is not None)
        + f"; calibration error {predictor.calibration_error:.3f} on {predictor.num_held_out} held-out labeled cells",
    )


def _plot(model: VAE, query: QueryData, obs: dict[str, Any], key: str, columns: FigureColumns, title: str) -> Figure:
    """Plot labels, uncertainty and novelty on the UMAP of the latents."""
    from vaekit.analysis.embed import cell_coordinates
    from vaekit.plotting.names import free_title
    from vaekit.plotting.transfer_figures import plot_transferred_labels

    novelty = free_title("novelty", columns.values)
    columns.values[novelty] = obs[f"{key}_novelty"]
    columns.units[novelty] = "distance to labeled cells; 1: exceeded by about 5 % of known types"
    return plot_transferred_labels(
        cell_coordinates(model, query), obs[key], obs[f"{key}_uncertainty"], *columns, title,
        panel=PANEL, scale="uncertainty of the label", colors=columns.palettes.get(key.removesuffix("_predicted"), {}),
    )  # fmt: skip
