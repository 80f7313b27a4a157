"""Commands whose result is a table of genes, also for Python: ``vaekit.cli.table_commands.de(...)``.

The signatures and docstrings are the command line (:mod:`vaekit.cli.command_parser`). Slow libraries are imported
inside the functions, so that the help of a command is fast.
"""

from __future__ import annotations

from pathlib import Path

from vaekit._core.atomic import atomic_write
from vaekit.cli.output_files import check_output, load_model
from vaekit.cli.values import check_seed
from vaekit.exceptions import DataError

NUM_PRINTED = 10  # genes
GENE_BYTES, FIGURE_BYTES = 500, 300_000  # approximate sizes of the files of `de`


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
