"""``vaekit de``: genes that differ between two groups of cells, as a table and a volcano plot."""

from __future__ import annotations

from pathlib import Path

from vaekit._core.atomic import atomic_write
from vaekit.cli.cells import check_room, resolve_cells
from vaekit.cli.console import Parser, silence_libraries
from vaekit.cli.overwriting import check_output, refuse_inputs, training_files
from vaekit.cli.seed import seed
from vaekit.exceptions import DataError

SHOWN = 10  # genes printed
GENE_BYTES, PLOT_BYTES = 500, 300_000  # that the files take, about


def parser() -> Parser:
    """Return the command's parser."""
    made = Parser(
        "vaekit de",
        description="Compare the expression of genes between two groups of cells: a table of probabilities and log2 "
        "fold changes, sorted, with the genes called at an expected false discovery rate, and a volcano plot of the "
        "same name with the ending .png.",
    )
    made.add_argument("checkpoint", metavar="CKPT", help="checkpoint of a trained model, such as RUN/last.ckpt")
    made.add_argument("data", metavar="DATA.h5ad", nargs="?", help="cells; without it, those the model was trained on")
    made.add_argument("--groupby", metavar="COL", required=True, help="column of obs with the groups")
    made.add_argument("--group1", metavar="A", required=True, help="first group")
    made.add_argument("--group2", metavar="B", help="second group; without it, all other cells")
    made.add_argument("-o", "--output", metavar="TABLE.csv", required=True, help="file to write")
    made.add_argument(
        "--delta", type=float, metavar="LFC", default=0.25, help="log2 fold change that is of no interest (0.25)"
    )
    made.add_argument("--fdr", type=float, default=0.05, help="expected share of false discoveries (0.05)")
    made.add_argument("--num_samples", type=int, default=2, metavar="N", help="draws of the latents a cell (2)")
    made.add_argument("--seed", type=seed, default=0, metavar="N", help="of the draws (0)")
    made.add_argument(
        "--layer", metavar="NAME", help="layer with the counts ('raw' for .raw, 'X' for .X); default: as in training"
    )
    made.add_argument("--batch_key", metavar="COL", help="column of obs with the batch; default: as in training")
    made.add_argument("--overwrite", action="store_true", help="replace table and plot if they exist")
    return made


def run(arguments: list[str]) -> None:
    """Run the command."""
    options = parser().parse_args(arguments[1:])
    table_file = Path(options.output)
    if table_file.suffix == ".png":
        raise DataError(f"the output {table_file} is a table: name it with the ending .csv; the plot lies beside it")
    plot_file = table_file.parent / f"{table_file.stem}.png"
    for file in (table_file, plot_file):
        check_output(file, (options.checkpoint, options.data), options.overwrite)
    silence_libraries()

    from vaekit.analysis import differential_expression, plot_volcano
    from vaekit.models import load

    model = load(options.checkpoint)
    for file in (table_file, plot_file):
        refuse_inputs(file, training_files(model))
    check_room(table_file, PLOT_BYTES + GENE_BYTES * model.features)
    cells, layer = resolve_cells(model, options.checkpoint, options.data, options.layer)
    table = differential_expression(
        cells,
        model,
        options.groupby,
        options.group1,
        options.group2,
        delta=options.delta,
        fdr=options.fdr,
        layer=layer,
        batch_key=options.batch_key,
        num_samples=options.num_samples,
        progress=True,
        seed=options.seed,
    )
    with atomic_write(table_file) as file:
        table.to_csv(file)
    with atomic_write(plot_file) as file:
        plot_volcano(table).savefig(file, dpi=150, format="png")
    decision = f"is_de_fdr_{options.fdr}"
    print(table[["proba_de", "lfc_median", "raw_mean1", "raw_mean2", decision]].head(SHOWN).to_string())
    comparison = table["comparison"].iloc[0]
    print(
        f"wrote {table_file} and {plot_file}: {comparison}, {int(table[decision].sum())} of {len(table)} genes called"
    )
