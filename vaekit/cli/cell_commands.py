"""Commands whose result has a row per cell, also for Python: ``vaekit.cli.cell_commands.embed(...)``.

The signatures and docstrings are the command line (:mod:`vaekit.cli.command_parser`). Slow libraries are imported
inside the functions, so that the help of a command is fast.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vaekit._core.arguments import check_seed
from vaekit._core.figure_formats import FigureFormat
from vaekit.cli.analysis_task import CELLS_OR_TABLE, start_task
from vaekit.cli.cell_results import open_result
from vaekit.cli.input_cells import resolve_cells
from vaekit.cli.values import read_assignments
from vaekit.exceptions import DataError

if TYPE_CHECKING:
    from vaekit.analysis import NormalizedExpressionWriter
    from vaekit.analysis.gene_summary import GeneSummary
    from vaekit.cli.analysis_task import AnalysisTask
    from vaekit.data.cells.query import QueryData
    from vaekit.plotting.figure_files import Figure


def embed(
    checkpoint: str | Path,
    data: list[str] | None = None,
    *,
    output: str | Path,
    label_key: str | None = None,
    key_added: str = "X_vaekit",
    layer: str | None = None,
    genes_in: str | None = None,
    batch_key: str | None = None,
    color: list[str] | None = None,
    figure: FigureFormat = "png",
    devices: int | None = None,
    overwrite: bool = False,
) -> None:
    """Write latents and codes of cells to an .h5ad or .csv file, and plot a UMAP.

    The .h5ad file is a copy of the cells: obsm["X_vaekit"] contains the posterior means of the continuous latents,
    obs["vaekit_NAME"] the code of each discrete latent, obsm["vaekit_NAME_probabilities"] its probabilities, and
    uns["vaekit"] the provenance. A .csv file has a row per cell. The cells of several files are in one output, with
    their file in obs["vaekit_file"].

    Parameters
    ----------
    checkpoint, data, layer, batch_key, overwrite, color, figure
        As for every command (:data:`vaekit.cli.common_arguments.DESCRIPTIONS`).
    output : str or Path
        .h5ad or .csv file to write. The UMAP has the same name with the ending .png.
    label_key : str, optional
        Column of obs with labels, for the UMAP. None: as in training.

    Other Parameters
    ----------------
    key_added : str
        Name in obsm, and beginning of the other names.
    genes_in, devices
        As for every command.

    Examples
    --------
    vaekit embed RUN/last.ckpt cells.h5ad -o embedded.h5ad
    """
    from vaekit.analysis import check_latent_fields
    from vaekit.analysis.device_prediction import check_devices
    from vaekit.analysis.embed import summarize_cells, summary_fields
    from vaekit.analysis.plot_umap import label_column
    from vaekit.callbacks.run_lock import may_be_first_process
    from vaekit.diagnostics.latent_figures import plot_summaries

    check_devices(devices)
    task = start_task(
        checkpoint, data, output, CELLS_OR_TABLE, layer=layer, genes_in=genes_in, overwrite=overwrite, figure=figure
    )
    model, source = task.model, task.input.open(task.model)
    columns = task.input.figure_columns(model, source, color, batch_key, label_key)
    query = task.input.prepare(model, batch_key, source=source)
    if not may_be_first_process():
        summarize_cells(model, query, devices=devices)
        return
    num_bytes = 8 * len(query.dataset) * sum(latent.size for latent in model.latents.values())
    with open_result(task, query, num_bytes) as result:
        check_latent_fields(result.fields, model, key_added)
        summaries = summarize_cells(model, query, progress=True, devices=devices)
        fields = summary_fields(summaries, query, model, key_added, task.checkpoint)
        result.write(fields)
    points, codes = fields["obsm"][key_added], fields["obs"]
    sizes = "".join(f', obs["{key}"] ({values.categories.size} different codes)' for key, values in codes.items())
    task.finish(
        lambda: plot_summaries(model, summaries, *columns, label_column(model, columns, label_key), task.title),
        f'{len(points)} cells, obsm["{key_added}"] {list(points.shape)}{sizes}',
    )


def denoise(
    checkpoint: str | Path,
    data: list[str] | None = None,
    *,
    output: str | Path,
    genes: list[str] | None = None,
    transform_batch: list[str] | None = None,
    covariates: list[str] | None = None,
    library_size: float | Literal["observed"] = 10_000.0,
    num_samples: int = 1,
    seed: int = 0,
    layer: str | None = None,
    genes_in: str | None = None,
    key_added: str = "vaekit_normalized",
    batch_key: str | None = None,
    figure: FigureFormat = "png",
    devices: int | None = None,
    overwrite: bool = False,
) -> None:
    """Write the expected expression of genes in each cell to an .h5ad or .csv file.

    The .h5ad file is a copy of the cells: layers["vaekit_normalized"] sums to the library size over the genes of the
    model and is NaN for other genes. obsm["vaekit_normalized"] contains all genes of the model if only .raw has some of
    them. uns["vaekit_normalized"] contains the provenance and the names of the genes. The figure compares the mean of
    each gene with that of the counts, or shows the genes of --genes on a UMAP.

    Parameters
    ----------
    checkpoint, data, layer, batch_key, overwrite, figure
        As for every command (:data:`vaekit.cli.common_arguments.DESCRIPTIONS`).
    output : str or Path
        .h5ad or .csv file to write. The figure has the same name with the ending .png.
    genes : list of str, optional
        Genes of the figure, and columns of a .csv file, which requires them.
    transform_batch : list of str, optional
        Batch assumed for all cells; several: the mean over them. None: each cell's own.
    covariates : list of str, optional
        Values assumed for all cells, such as donor=A age=40; several of one: the mean over them.
    library_size : float or "observed"
        Sum of a cell's expression over genes; 'observed': that of its counts.

    Other Parameters
    ----------------
    num_samples : int
        Number of samples of the latents per cell.
    key_added : str
        Name in layers, obsm and uns.
    seed, genes_in, devices
        As for every command.

    Examples
    --------
    vaekit denoise RUN/last.ckpt cells.h5ad -o denoised.csv --genes CD3D MS4A1
    """
    from vaekit.analysis import NormalizedExpressionWriter
    from vaekit.analysis.device_prediction import check_devices
    from vaekit.analysis.fields import check_free
    from vaekit.analysis.gene_summary import GeneSummary
    from vaekit.callbacks.run_lock import may_be_first_process
    from vaekit.cli.cells import new_array

    check_seed(seed)
    values = read_assignments(covariates, "covariates")
    check_devices(devices)
    is_table = Path(output).suffix.lower() == ".csv"
    if is_table and not genes:
        raise DataError(
            f"output={str(output)!r} has a column per gene of --genes. Name genes, such as --genes CD3D MS4A1, or name "
            "the output with the ending .h5ad for all genes."
        )
    task = start_task(
        checkpoint, data, output, CELLS_OR_TABLE, layer=layer, genes_in=genes_in, overwrite=overwrite, figure=figure
    )
    writer = NormalizedExpressionWriter(
        task.model, library_size, transform_batch, num_samples=num_samples, seed=seed, covariates=values
    )
    names = writer.check_genes(genes) if genes else []
    query = task.input.prepare(task.model, batch_key)
    if not may_be_first_process():
        writer.write({}, query, devices=devices)
        return
    summary = GeneSummary(len(query.dataset), writer.genes, names)
    shapes = {} if is_table else writer.shapes(query, key_added)
    num_bytes = 4 * sum(num_cells * num_genes for num_cells, num_genes in shapes.values()) + summary.values.nbytes
    with open_result(task, query, num_bytes) as result:
        check_free(result.fields, key_added, {"layers": [key_added], "obsm": [key_added]}, key_added)
        for location in {"layers", "obsm"}.difference(shapes):  # of an earlier result
            result.fields.get(location, {}).pop(key_added, None)
        arrays = {location: new_array(result.fields, location, key_added, shape) for location, shape in shapes.items()}
        writer.write({**arrays, "summary": summary}, query, progress=True, devices=devices)
        if is_table:
            result.write({"obsm": {key_added: summary.table()}})
        else:
            result.write({"uns": {key_added: writer.provenance(query, task.checkpoint)}})
    content = [f'{location}["{key_added}"] {list(shape)}' for location, shape in shapes.items()]
    content = content or [f"{len(names)} genes"]
    task.finish(
        lambda: _plot_denoised(task, query, summary, writer), f"{len(query.dataset)} cells, {', '.join(content)}"
    )


def _plot_denoised(
    task: AnalysisTask, query: QueryData, summary: GeneSummary, writer: NormalizedExpressionWriter
) -> Figure:
    """Plot the chosen genes on the UMAP of the latents, or without any the mean of each gene."""
    from vaekit.analysis.embed import cell_coordinates
    from vaekit.analysis.gene_summary import summarize_counts
    from vaekit.plotting.gene_figures import plot_gene_means, plot_genes

    counts = summarize_counts(query, writer.genes, summary.genes, writer.library_size)
    if not summary.genes:
        return plot_gene_means(counts.mean, summary.mean, writer.genes)
    return plot_genes(cell_coordinates(task.model, query), {"counts": counts.table(), "denoised": summary.table()})


def transfer(
    checkpoint: str | Path,
    reference: list[str] | None = None,
    *,
    query: list[str],
    output: str | Path,
    label_key: str | None = None,
    n_neighbors: int | None = None,
    key_added: str | None = None,
    layer: str | None = None,
    genes_in: str | None = None,
    batch_key: str | None = None,
    color: list[str] | None = None,
    figure: FigureFormat = "png",
    overwrite: bool = False,
) -> None:
    """Label cells by their nearest labeled neighbors in latent space.

    obs["LABEL_transferred"] contains the labels, obs["LABEL_transferred_uncertainty"] 1 minus the weight of the label
    among the neighbors (0 if all agree), and uns["LABEL_transferred"] the provenance. The figure shows the number and
    the uncertainty of the cells of each label, and both on a UMAP.

    Parameters
    ----------
    layer, overwrite, color, figure
        As for every command (:data:`vaekit.cli.common_arguments.DESCRIPTIONS`).
    checkpoint : str or Path
        Checkpoint of a trained model, such as RUN/last.ckpt; that of `vaekit map` for cells of new batches.
    reference : list of str, optional
        Files of labeled cells. None: the training data.
    query : list of str
        Files of the cells to label.
    output : str or Path
        .h5ad file (a copy of the query) or .csv file to write. The figure has the same name with the ending .png.
    label_key : str, optional
        Column of the reference's obs with the labels. None: as in training.
    batch_key : str, optional
        Column of obs with the batch, or the batch of all cells of the query. None: as in training.

    Other Parameters
    ----------------
    n_neighbors : int, optional
        Number of neighbors. None: chosen by the labels of the reference.
    key_added : str, optional
        Name in obs and uns. None: the label column with the ending _transferred.
    genes_in
        As for every command.

    Examples
    --------
    vaekit transfer RUN/last.ckpt --query new.h5ad --label_key cell_type -o labeled.h5ad
    """
    import numpy as np
    import pandas as pd

    from vaekit.analysis import check_label_fields, get_data_registry, label_fields
    from vaekit.analysis.embed import cell_coordinates
    from vaekit.analysis.plot_umap import figure_columns, label_column
    from vaekit.data.cells.file_formats import accept_genes_in
    from vaekit.plotting.transfer_figures import plot_transferred_labels

    task = start_task(
        checkpoint, query, output, CELLS_OR_TABLE, layer=layer, genes_in=genes_in, overwrite=overwrite,
        others=reference or (), figure=figure,
    )  # fmt: skip
    model = task.model
    label_key = label_key or get_data_registry(model)["config"]["init_args"].get("label_key")
    if label_key is None:
        raise DataError("label_key=None: the model was trained without labels. Pass --label_key COLUMN")
    key_added = key_added or f"{label_key}_transferred"
    source = task.input.open(model)
    columns = task.input.figure_columns(model, source, color, batch_key)
    known_in = genes_in if reference and accept_genes_in(reference) else None
    known = resolve_cells(model, checkpoint, reference, layer, argument="reference", genes_in=known_in)
    labeled_source = known.open(model)
    colors = figure_columns(model, labeled_source, label_key=label_key)
    labeled = known.prepare(model, known.find_column(model, batch_key), label_key, labeled_source)
    cells = task.input.prepare(model, batch_key, source=source)
    with open_result(task, cells, 8 * len(cells.dataset)) as result:
        check_label_fields(result.fields, key_added)
        fields = label_fields(
            labeled, cells, model, label_key, n_neighbors=n_neighbors, key_added=key_added, progress=True,
            checkpoint=task.checkpoint,
        )  # fmt: skip
        result.write(fields)
    labels, uncertainty = fields["obs"][key_added], fields["obs"][f"{key_added}_uncertainty"]
    known_labels = label_column(model, colors, label_key)
    assert known_labels is not None
    task.finish(
        lambda: plot_transferred_labels(
            cell_coordinates(model, cells),
            pd.Categorical(labels, known_labels.categories),
            uncertainty,
            *columns,
            task.title,
            colors=colors.palettes.get(label_key, {}),
        ),
        f"{len(labels)} cells, {labels.categories.size} labels, median uncertainty {np.median(uncertainty):.2f}",
    )
