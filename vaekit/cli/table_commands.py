"""Commands whose result is a table of genes, also for Python: ``vaekit.cli.table_commands.de(...)``.

The signatures and docstrings are the command line (:mod:`vaekit.cli.command_parser`). Slow libraries are imported
inside the functions, so that the help of a command is fast.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vaekit._core.atomic import atomic_write
from vaekit.cli.output_files import check_output, load_model
from vaekit.cli.values import check_seed
from vaekit.exceptions import DataError

if TYPE_CHECKING:
    import pandas as pd

    from vaekit.plotting.figure_files import Figure

NUM_PRINTED, NUM_TOP = 10, 5  # genes of one comparison, and of each of several
GENE_BYTES, FIGURE_BYTES = 500, 300_000  # approximate sizes of the files of `de`


def de(
    checkpoint: str | Path,
    data: str | None = None,
    *,
    groupby: str | None = None,
    group1: list[str] | None = None,
    group2: str | None = None,
    replicate_key: str | None = None,
    output: str | Path,
    delta: float = 0.25,
    fdr: float = 0.05,
    num_samples: int = 2,
    seed: int = 0,
    layer: str | None = None,
    batch_key: str | None = None,
    overwrite: bool = False,
) -> None:
    """Compare the expression of genes between groups of cells.

    The sorted table contains probabilities, log2 fold changes and the genes called at an expected false discovery
    rate. A figure has the same name with the ending .png: a volcano plot, or for several comparisons a dot plot.

    Parameters
    ----------
    checkpoint : str or Path
        Checkpoint of a trained model, such as RUN/last.ckpt.
    data : str, optional
        File or zarr store of cells. None: the training data.
    groupby : str, optional
        Column of obs with the groups. None: groups are conditions such as "cell_type == 'B'".
    group1 : list of str, optional
        Groups, each compared with group2. None: every group.
    group2 : str, optional
        Second group. None: all other cells.
    replicate_key : str, optional
        Column of obs with replicates, such as donors. Errors then include their variance.
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
    from vaekit.analysis import differential_expression
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
        cells, model, groupby, group1, group2, replicate_key=replicate_key, delta=delta, fdr=fdr, layer=layer,
        batch_key=batch_key, num_samples=num_samples, progress=True, seed=seed,
    )  # fmt: skip
    with atomic_write(output) as file:
        table.to_csv(file)
    files = [output]
    if (figure := _de_figure(table)) is not None:
        save_figure(figure, plot_file)
        files.append(plot_file)
    written = f"Wrote {' and '.join(map(str, files))}"
    _print_comparisons(table, f"is_de_fdr_{fdr}", written)


def _de_figure(table: pd.DataFrame) -> Figure | None:
    """Return the volcano plot of one comparison, or the dot plot of several; None if that has no genes."""
    from vaekit.analysis import plot_dotplot, plot_volcano, top_genes

    if table["comparison"].nunique() == 1:
        return plot_volcano(table)
    return None if top_genes(table).empty else plot_dotplot(table)


def _print_comparisons(table: pd.DataFrame, decision: str, written: str) -> None:
    """Print the first genes of one comparison, or the number of called genes and the top genes of each."""
    from vaekit.analysis import top_genes

    num_called = int(table[decision].sum())
    names = table["comparison"].unique()
    if len(names) == 1:
        print(table[["proba_de", "lfc_median", "raw_mean1", "raw_mean2", decision]].head(NUM_PRINTED).to_string())
        print(f"{written}: {names[0]}, {num_called} of {len(table)} genes called")
        return
    top = top_genes(table, NUM_TOP)
    for name in names:
        genes = ", ".join(top.loc[top["comparison"] == name, "gene"]) or "none"
        print(f"{name}: {int(table.loc[table['comparison'] == name, decision].sum())} genes called; higher: {genes}")
    missing = "" if len(top) else "; no dot plot, because no gene is called"
    print(f"{written}: {len(names)} comparisons, {num_called} of {len(table)} rows called{missing}")
