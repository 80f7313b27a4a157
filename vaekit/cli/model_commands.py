"""Commands that return or extend a model, also for Python: ``vaekit.cli.model_commands.evaluate(...)``.

The signatures and docstrings are the command line (:mod:`vaekit.cli.command_parser`). Slow libraries are imported
inside the functions, so that the help of a command is fast.
"""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import Any, Literal

from vaekit._core.arguments import check_minimum, check_seed
from vaekit._core.figure_formats import FigureFormat
from vaekit.cli.analysis_task import start_task
from vaekit.cli.evaluation_report import (
    TRAINING_DATA,
    EvaluationData,
    evaluation_table,
    integration_table,
    integration_values,
    score_integration,
)
from vaekit.cli.output_files import load_model, reject_inputs


def evaluate(
    checkpoint: str | Path,
    *,
    split: Literal["train", "val", "test", "all"] | None = None,
    data: EvaluationData = TRAINING_DATA,
    num_samples: int = 1000,
    seed: int = 0,
    devices: int | None = None,
    json: bool = False,
) -> dict[str, Any]:
    """Evaluate a trained model on held-out data.

    Prints the ELBO, the log-likelihood by importance sampling with its standard error over observations, and the
    effective sample size, all in nats per cell or image; the active units and the codes in use; and the agreement of
    codes (or k-means clusters) with labels. For cells with labels, scib-metrics then scores how well the latents keep
    cell types apart and mix batches, next to PCA and Harmony, if it is installed: pip install "vaekit[metrics]".

    Parameters
    ----------
    checkpoint
        As for every command (:data:`vaekit.cli.common_arguments.DESCRIPTIONS`).
    split : str, optional
        Split of the training data: train, val, test or all. None: test, and all cells for the integration scores.
    data : EvaluationData
        Cells of a file, evaluated instead of the training data.
    num_samples : int
        Number of importance samples per observation.
    json : bool
        Print the results as one line of JSON, too.

    Other Parameters
    ----------------
    seed, devices
        As for every command.

    Returns
    -------
    dict
        The results by name; empty in the processes of further devices.

    Examples
    --------
    vaekit evaluate RUN/last.ckpt --data.path cells.h5ad --data.label_key cell_type
    """
    import torch
    from tqdm.auto import tqdm

    from vaekit.analysis.device_evaluation import evaluate_on_devices
    from vaekit.analysis.device_prediction import check_devices
    from vaekit.diagnostics import evaluate_model

    check_seed(seed)
    check_devices(devices)
    check_minimum(1, **{"num_samples": num_samples, "data.batch_size": data.batch_size})
    model = load_model(checkpoint)
    evaluated = data.load(model, split)
    torch.manual_seed(seed)
    if devices is None:
        evaluation = evaluate_model(model, tqdm(evaluated.batches, desc="evaluating", unit="batch"), num_samples)
    else:
        dataset: Any = evaluated.batches.dataset
        on_devices = evaluate_on_devices(model, dataset, num_samples, devices, data.batch_size, seed)
        if on_devices is None:
            return {}
        evaluation = on_devices
    print(evaluation_table(evaluation, evaluated.source))
    scores, line = score_integration(model, evaluated)
    if line:
        print(line)
    if scores is not None:
        print(integration_table(scores))
    results = {**evaluation.to_dict(), "integration": integration_values(scores)}
    if json:
        print(json_format.dumps(results))
    return results


def export(checkpoint: str | Path, *, output: str | Path) -> None:
    """Write a trained model as safetensors and JSON.

    model.safetensors contains the weights, model.json the arguments and the names of the data. These formats cannot
    contain code. All commands for a trained model, and vaekit.load, accept the directory as a checkpoint. Training
    cannot be resumed from it.

    Parameters
    ----------
    checkpoint
        As for every command (:data:`vaekit.cli.common_arguments.DESCRIPTIONS`).
    output : str or Path
        Directory to write, new or empty.

    Examples
    --------
    vaekit export RUN/last.ckpt -o DIRECTORY
    """
    from vaekit.models.checkpoint import read_checkpoint
    from vaekit.models.export import DESCRIPTION, TENSORS
    from vaekit.models.export import export as write_export

    reject_inputs(Path(output), (checkpoint,), allow_directory=True)
    model = load_model(checkpoint)  # a model that cannot be loaded is not exported
    directory = write_export(read_checkpoint(checkpoint), output)
    num_weights = sum(parameter.numel() for parameter in model.parameters())
    print(f"Wrote {directory}: {TENSORS} ({num_weights} weights of a {model.hparams['_class_path']}), {DESCRIPTION}")


def map(  # the name of the command
    checkpoint: str | Path,
    query: list[str],
    *,
    output: str | Path,
    max_steps: int | None = None,
    seed: int = 0,
    layer: str | None = None,
    genes_in: str | None = None,
    batch_key: str | None = None,
    color: list[str] | None = None,
    figure: FigureFormat = "png",
    overwrite: bool = False,
) -> None:
    """Extend a trained model by the batches of new cells.

    Only parameters of the new batches are trained. Results for the cells of the known batches stay the same. The new
    checkpoint is for all commands of a trained model.

    Parameters
    ----------
    checkpoint, layer, overwrite, color, figure
        As for every command (:data:`vaekit.cli.common_arguments.DESCRIPTIONS`).
    query : list of str
        Files of new cells: .h5ad, zarr, 10x (.h5 or directory), .loom, .h5mu, .csv or .tsv.
    output : str or Path
        .ckpt file to write. The figure, a UMAP of the new cells, has the same name with the ending .png.
    max_steps : int, optional
        Number of training steps. None: chosen by the number of cells.
    batch_key : str, optional
        Column of obs with the batch. None: as in training; if the cells lack it, they are one batch, 'query'.

    Other Parameters
    ----------------
    seed : int
        Seed of the training.
    genes_in
        As for every command.

    Examples
    --------
    vaekit map RUN/last.ckpt new.h5ad -o mapped.ckpt
    """
    from vaekit.analysis import get_data_registry, map_query
    from vaekit.analysis.embed import summarize_cells
    from vaekit.analysis.plot_umap import label_column
    from vaekit.diagnostics.latent_figures import plot_summaries
    from vaekit.models import save

    check_seed(seed)
    check_minimum(1, max_steps=max_steps)
    task = start_task(
        checkpoint, query, output, (".ckpt",), layer=layer, genes_in=genes_in, overwrite=overwrite, figure=figure
    )
    task.input.figure_columns(task.model, task.input.open(task.model), color)  # checks the names before training
    mapped = map_query(
        task.input.cells, task.model, layer=task.input.layer, batch_key=batch_key, max_steps=max_steps, progress=True,
        seed=seed,
    )  # fmt: skip
    save(mapped, task.files.result)
    record = get_data_registry(mapped)["mappings"][-1]
    batches = ", ".join(f"{name!r} ({count} cells)" for name, count in record["batches"].items())
    key = batch_key or record["batch_key"] or next(iter(record["batches"]))
    source = task.input.open(mapped)
    columns = task.input.figure_columns(mapped, source, color, key)
    cells = task.input.prepare(mapped, key, source=source)
    task.finish(
        lambda: plot_summaries(
            mapped, summarize_cells(mapped, cells), *columns, label_column(mapped, columns), task.title
        ),
        f"new batches {batches}; ELBO per cell {record['elbo_before']:.1f} before and {record['elbo_after']:.1f} after "
        f"{record['num_steps']} steps",
    )
    flag = f" --batch_key {key}" if key != record["batch_key"] or batch_key else ""
    print(f"Embed the new cells with vaekit embed {output} {' '.join(query)}{flag} -o embedded.h5ad")
    print(
        f"Label them with vaekit transfer {output} --query {' '.join(query)}{flag} --label_key COLUMN -o labeled.h5ad"
    )
