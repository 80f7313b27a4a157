"""``vaekit denoise``: expected expression of genes, written into an .h5ad file."""

from __future__ import annotations

from pathlib import Path

from vaekit.cli.cells import new_array, open_output_copy, resolve_cells, write_fields
from vaekit.cli.console import Parser, silence_libraries
from vaekit.cli.overwriting import check_output, refuse_inputs, training_files
from vaekit.cli.seed import seed
from vaekit.exceptions import DataError


def parser() -> Parser:
    """Return the command's parser."""
    made = Parser(
        "vaekit denoise",
        description="Write what a model expects of each gene in each cell into a copy of the cells' .h5ad file: "
        'layers["vaekit_normalized"], which sums to the library size over the genes of the model, NaN for other genes; '
        'if .raw alone has some of the genes, all of them in obsm["vaekit_normalized"]; where they come from, and the '
        'names of the genes, in uns["vaekit_normalized"].',
    )
    made.add_argument("checkpoint", metavar="CKPT", help="checkpoint of a trained model, such as RUN/last.ckpt")
    made.add_argument("data", metavar="DATA.h5ad", nargs="?", help="cells; without it, those the model was trained on")
    made.add_argument("-o", "--output", metavar="OUT.h5ad", required=True, help="file to write")
    made.add_argument(
        "--transform_batch",
        metavar="B",
        action="append",
        help="batch that all cells are taken to come from; repeated: the mean over several; default: each cell's own",
    )
    made.add_argument("--library_size", metavar="N", default="10000", help="sum over genes, or 'observed' (10000)")
    made.add_argument("--num_samples", type=int, default=1, metavar="N", help="draws of the latents a cell (1)")
    made.add_argument("--seed", type=seed, default=0, metavar="N", help="of the draws (0)")
    made.add_argument(
        "--layer", metavar="NAME", help="layer with the counts ('raw' for .raw, 'X' for .X); default: as in training"
    )
    made.add_argument(
        "--key_added", metavar="NAME", default="vaekit_normalized", help="name of the layer (vaekit_normalized)"
    )
    made.add_argument("--batch_key", metavar="COL", help="column of obs with the batch; default: as in training")
    made.add_argument("--overwrite", action="store_true", help="replace OUT.h5ad if it exists")
    return made


def run(arguments: list[str]) -> None:
    """Run the command."""
    options = parser().parse_args(arguments[1:])
    output = Path(options.output)
    check_output(output, (options.checkpoint, options.data), options.overwrite)
    library_size = options.library_size if options.library_size == "observed" else _number(options.library_size)
    silence_libraries()

    from vaekit.analysis import NormalizedExpressionWriter, prepare_query
    from vaekit.analysis.fields import check_free
    from vaekit.models import load

    model = load(options.checkpoint)
    refuse_inputs(output, training_files(model))
    asked = NormalizedExpressionWriter(
        model, library_size, options.transform_batch, num_samples=options.num_samples, seed=options.seed
    )
    source, layer = resolve_cells(model, options.checkpoint, options.data, options.layer)
    query = prepare_query(model, source, layer, options.batch_key)
    key = options.key_added
    shapes = asked.shapes(query, key)
    with open_output_copy(
        source, query, output, more=sum(4 * cells * genes for cells, genes in shapes.values())
    ) as file:
        check_free(file, key, {"layers": [key], "obsm": [key]}, key)
        for place in {"layers", "obsm"}.difference(shapes):  # of an earlier result
            file.get(place, {}).pop(key, None)
        arrays = {place: new_array(file, place, key, shape) for place, shape in shapes.items()}
        asked.write(arrays, query, progress=True)
        write_fields(file, "uns", {key: asked.provenance(query, str(options.checkpoint))})
    places = ", ".join(f'{place}["{key}"] {list(shape)}' for place, shape in shapes.items())
    print(f"wrote {output}: {len(query.dataset)} cells, {places}")


def _number(words: str) -> float:
    try:
        return float(words)
    except ValueError:
        raise DataError(f"--library_size is {words!r}; a positive number is needed, or 'observed'") from None
