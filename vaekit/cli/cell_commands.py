"""Commands whose result has a row per cell, also for Python: ``vaekit.cli.cell_commands.embed(...)``.

The signatures and docstrings are the command line (:mod:`vaekit.cli.command_parser`). Slow libraries are imported
inside the functions, so that the help of a command is fast.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from vaekit.cli.output_files import check_output, load_model
from vaekit.cli.values import check_seed


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
