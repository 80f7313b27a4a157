"""Commands for a trained model. Python calls the same functions: ``vaekit.cli.commands.embed(...)``.

The signatures and docstrings are the command line (:mod:`vaekit.cli.command_parser`). Slow libraries are imported
inside the functions, so that the help of a command is fast.
"""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import Any, Literal

from vaekit._core.atomic import atomic_write
from vaekit.cli.evaluation_report import TRAINING_DATA, EvaluationData, evaluation_table
from vaekit.cli.output_files import check_output, load_model, reject_inputs
from vaekit.cli.values import check_minimum, check_seed
from vaekit.exceptions import DataError

NUM_PRINTED = 10  # genes
GENE_BYTES, FIGURE_BYTES = 500, 300_000  # approximate sizes of the files of `de`


def embed(
    checkpoint: str | Path,
    data: str | None = None,
    *,
    output: str | Path,
    key_added: str = "X_vaekit",
    layer: str | None = None,
    batch_key: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write the latents of cells into a copy of their .h5ad file.

    The posterior means of the continuous latents go into obsm["X_vaekit"], each discrete latent into
    obs["vaekit_NAME"] and its probabilities into obsm["vaekit_NAME_probabilities"], and their provenance into
    uns["vaekit"]. Genes are matched by name.

    Parameters
    ----------
    checkpoint : str or Path
        Checkpoint of a trained model, such as RUN/last.ckpt.
    data : str, optional
        File or zarr store of cells. None: the training data.
    output : str or Path
        .h5ad file to write.
    key_added : str
        Name in obsm, and beginning of the other names.
    layer : str, optional
        Layer with the counts ('raw' for .raw, 'X' for .X). None: as in training.
    batch_key : str, optional
        Column of obs with the batch. None: as in training.
    overwrite : bool
        Replace the output if it exists.
    """
    from vaekit.analysis import check_latent_fields, latent_fields, prepare_query
    from vaekit.cli.cells import open_output_copy, resolve_cells, write_fields

    output = Path(output)
    check_output(output, (checkpoint, data), overwrite)
    model = load_model(checkpoint, output)
    source, layer = resolve_cells(model, checkpoint, data, layer)
    query = prepare_query(model, source, layer, batch_key)
    num_bytes = 8 * len(query.dataset) * sum(latent.size for latent in model.latents.values())
    with open_output_copy(source, query, output, num_bytes) as file:
        check_latent_fields(file, model, key_added)
        fields = latent_fields(query, model, key_added, progress=True, checkpoint=str(checkpoint))
        for location, values in fields.items():
            write_fields(file, location, values)
    shape = list(fields["obsm"][key_added].shape)
    codes = "".join(f', obs["{key}"] ({codes.categories.size} different codes)' for key, codes in fields["obs"].items())
    print(f'Wrote {output}: {shape[0]} cells, obsm["{key_added}"] {shape}{codes}')


def denoise(
    checkpoint: str | Path,
    data: str | None = None,
    *,
    output: str | Path,
    transform_batch: list[str] | None = None,
    library_size: float | Literal["observed"] = 10_000.0,
    num_samples: int = 1,
    seed: int = 0,
    layer: str | None = None,
    key_added: str = "vaekit_normalized",
    batch_key: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write the expected expression of each gene in each cell into a copy of the cells' .h5ad file.

    layers["vaekit_normalized"] sums to the library size over the genes of the model and is NaN for other genes.
    obsm["vaekit_normalized"] contains all genes of the model if only .raw has some of them. uns["vaekit_normalized"]
    contains the provenance and the names of the genes.

    Parameters
    ----------
    checkpoint : str or Path
        Checkpoint of a trained model, such as RUN/last.ckpt.
    data : str, optional
        File or zarr store of cells. None: the training data.
    output : str or Path
        .h5ad file to write.
    transform_batch : list of str, optional
        Batch assumed for all cells; several: the mean over them. None: each cell's own.
    library_size : float or "observed"
        Sum of a cell's expression over genes; 'observed': that of its counts.
    num_samples : int
        Number of samples of the latents per cell.
    seed : int
        Seed of the samples.
    layer : str, optional
        Layer with the counts ('raw' for .raw, 'X' for .X). None: as in training.
    key_added : str
        Name in layers, obsm and uns.
    batch_key : str, optional
        Column of obs with the batch. None: as in training.
    overwrite : bool
        Replace the output if it exists.
    """
    from vaekit.analysis import NormalizedExpressionWriter, prepare_query
    from vaekit.analysis.fields import check_free
    from vaekit.cli.cells import new_array, open_output_copy, resolve_cells, write_fields

    output = Path(output)
    check_seed(seed)
    check_output(output, (checkpoint, data), overwrite)
    model = load_model(checkpoint, output)
    writer = NormalizedExpressionWriter(model, library_size, transform_batch, num_samples=num_samples, seed=seed)
    source, layer = resolve_cells(model, checkpoint, data, layer)
    query = prepare_query(model, source, layer, batch_key)
    shapes = writer.shapes(query, key_added)
    num_bytes = sum(4 * num_cells * num_genes for num_cells, num_genes in shapes.values())
    with open_output_copy(source, query, output, num_bytes) as file:
        check_free(file, key_added, {"layers": [key_added], "obsm": [key_added]}, key_added)
        for location in {"layers", "obsm"}.difference(shapes):  # of an earlier result
            file.get(location, {}).pop(key_added, None)
        arrays = {location: new_array(file, location, key_added, shape) for location, shape in shapes.items()}
        writer.write(arrays, query, progress=True)
        write_fields(file, "uns", {key_added: writer.provenance(query, str(checkpoint))})
    arrays_written = ", ".join(f'{location}["{key_added}"] {list(shape)}' for location, shape in shapes.items())
    print(f"Wrote {output}: {len(query.dataset)} cells, {arrays_written}")


def de(
    checkpoint: str | Path,
    data: str | None = None,
    *,
    groupby: str,
    group1: str,
    group2: str | None = None,
    output: str | Path,
    delta: float = 0.25,
    fdr: float = 0.05,
    num_samples: int = 2,
    seed: int = 0,
    layer: str | None = None,
    batch_key: str | None = None,
    overwrite: bool = False,
) -> None:
    """Compare the expression of genes between two groups of cells.

    The sorted table contains probabilities, log2 fold changes and the genes called at an expected false discovery
    rate. A volcano plot has the same name with the ending .png.

    Parameters
    ----------
    checkpoint : str or Path
        Checkpoint of a trained model, such as RUN/last.ckpt.
    data : str, optional
        File or zarr store of cells. None: the training data.
    groupby : str
        Column of obs with the groups.
    group1 : str
        First group.
    group2 : str, optional
        Second group. None: all other cells.
    output : str or Path
        .csv file to write.
    delta : float
        Smallest log2 fold change of interest.
    fdr : float
        Expected fraction of false discoveries.
    num_samples : int
        Number of samples of the latents per cell.
    seed : int
        Seed of the samples.
    layer : str, optional
        Layer with the counts ('raw' for .raw, 'X' for .X). None: as in training.
    batch_key : str, optional
        Column of obs with the batch. None: as in training.
    overwrite : bool
        Replace table and plot if they exist.
    """
    from vaekit.analysis import differential_expression, plot_volcano
    from vaekit.cli.cells import check_room, resolve_cells
    from vaekit.plotting import save_figure

    output = Path(output)
    check_seed(seed)
    if output.suffix == ".png":
        raise DataError(
            f"output={str(output)!r} is a table. Name it with the ending .csv; the plot gets the ending .png."
        )
    plot_file = output.parent / f"{output.stem}.png"
    for file in (output, plot_file):
        check_output(file, (checkpoint, data), overwrite)
    model = load_model(checkpoint, output, plot_file)
    check_room(output, FIGURE_BYTES + GENE_BYTES * model.features)
    cells, layer = resolve_cells(model, checkpoint, data, layer)
    table = differential_expression(
        cells, model, groupby, group1, group2, delta=delta, fdr=fdr, layer=layer, batch_key=batch_key,
        num_samples=num_samples, progress=True, seed=seed,
    )  # fmt: skip
    with atomic_write(output) as file:
        table.to_csv(file)
    save_figure(plot_volcano(table), plot_file)
    decision = f"is_de_fdr_{fdr}"
    print(table[["proba_de", "lfc_median", "raw_mean1", "raw_mean2", decision]].head(NUM_PRINTED).to_string())
    num_called = int(table[decision].sum())
    print(f"Wrote {output} and {plot_file}: {table['comparison'].iloc[0]}, {num_called} of {len(table)} genes called")


def evaluate(
    checkpoint: str | Path,
    *,
    split: Literal["train", "val", "test", "all"] | None = None,
    data: EvaluationData = TRAINING_DATA,
    num_samples: int = 1000,
    seed: int = 0,
    json: bool = False,
) -> dict[str, Any]:
    """Evaluate a trained model on held-out data.

    Prints the ELBO, the log-likelihood by importance sampling with its standard error over observations, and the
    effective sample size, all in nats per cell or image; the active units and the codes in use; and the agreement of
    codes (or k-means clusters) with labels.

    Parameters
    ----------
    checkpoint : str or Path
        Checkpoint of a trained model, such as RUN/last.ckpt.
    split : str, optional
        Split of the training data: train, val, test or all. None: test.
    data : EvaluationData
        Cells of a file, evaluated instead of the training data.
    num_samples : int
        Number of importance samples per observation.
    seed : int
        Seed of the samples.
    json : bool
        Print the results as one line of JSON, too.

    Returns
    -------
    dict
        The results by name.
    """
    import torch
    from tqdm.auto import tqdm

    from vaekit.diagnostics import evaluate_model

    check_seed(seed)
    check_minimum(1, **{"num_samples": num_samples, "data.batch_size": data.batch_size})
    model = load_model(checkpoint)
    batches, source = data.load(model, split)
    torch.manual_seed(seed)
    evaluation = evaluate_model(model, tqdm(batches, desc="evaluating", unit="batch"), num_samples)
    results = evaluation.to_dict()
    print(evaluation_table(evaluation, source))
    if json:
        print(json_format.dumps(results))
    return results


def export(checkpoint: str | Path, *, output: str | Path) -> None:
    """Write a trained model as model.safetensors (weights) and model.json (arguments and names of the data).

    These formats cannot contain code. All commands for a trained model, and vaekit.load, accept the directory as a
    checkpoint. Training cannot be resumed from it.

    Parameters
    ----------
    checkpoint : str or Path
        Checkpoint of a trained model, such as RUN/last.ckpt.
    output : str or Path
        Directory to write, new or empty.
    """
    from vaekit.models.checkpoint import read_checkpoint
    from vaekit.models.export import DESCRIPTION, TENSORS
    from vaekit.models.export import export as write_export

    reject_inputs(Path(output), (checkpoint,), allow_directory=True)
    model = load_model(checkpoint)  # a model that cannot be loaded is not exported
    directory = write_export(read_checkpoint(checkpoint), output)
    num_weights = sum(parameter.numel() for parameter in model.parameters())
    print(f"Wrote {directory}: {TENSORS} ({num_weights} weights of a {model.hparams['_class_path']}), {DESCRIPTION}")
