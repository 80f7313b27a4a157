"""``vaekit embed``: latents of cells, written into an .h5ad file."""

from __future__ import annotations

from pathlib import Path

from vaekit.cli.cells import open_output_copy, resolve_cells, write_fields
from vaekit.cli.console import Parser, silence_libraries
from vaekit.cli.overwriting import check_output, refuse_inputs, training_files


def parser() -> Parser:
    """Return the command's parser."""
    made = Parser(
        "vaekit embed",
        description="Write the latents of cells into a copy of their .h5ad file: posterior means of the continuous "
        'latents in obsm["X_vaekit"], each discrete latent in obs["vaekit_NAME"] with its probabilities in '
        'obsm["vaekit_NAME_probabilities"], where they come from in uns["vaekit"]. Genes are matched by name.',
    )
    made.add_argument("checkpoint", metavar="CKPT", help="checkpoint of a trained model, such as RUN/last.ckpt")
    made.add_argument("data", metavar="DATA.h5ad", nargs="?", help="cells; without it, those the model was trained on")
    made.add_argument("-o", "--output", metavar="OUT.h5ad", required=True, help="file to write")
    made.add_argument(
        "--key_added", metavar="NAME", default="X_vaekit", help="name in obsm, and beginning of the others (X_vaekit)"
    )
    made.add_argument("--layer", help="layer with the counts ('raw' for .raw, 'X' for .X); default: as in training")
    made.add_argument("--batch_key", help="column of obs with the batch; default: as in training")
    made.add_argument("--overwrite", action="store_true", help="replace OUT.h5ad if it exists")
    return made


def run(arguments: list[str]) -> None:
    """Run the command."""
    options = parser().parse_args(arguments[1:])
    output = Path(options.output)
    check_output(output, (options.checkpoint, options.data), options.overwrite)
    silence_libraries()

    from vaekit.analysis import check_latent_fields, latent_fields, prepare_query
    from vaekit.models import load

    model = load(options.checkpoint)
    refuse_inputs(output, training_files(model))
    source, layer = resolve_cells(model, options.checkpoint, options.data, options.layer)
    query = prepare_query(model, source, layer, options.batch_key)
    more = 8 * len(query.dataset) * sum(latent.size for latent in model.latents.values())
    with open_output_copy(source, query, output, more) as file:
        check_latent_fields(file, model, options.key_added)
        fields = latent_fields(query, model, options.key_added, progress=True, checkpoint=str(options.checkpoint))
        for place, values in fields.items():
            write_fields(file, place, values)
    shape = list(fields["obsm"][options.key_added].shape)
    codes = "".join(f', obs["{key}"] ({codes.categories.size} different codes)' for key, codes in fields["obs"].items())
    print(f'wrote {output}: {shape[0]} cells, obsm["{options.key_added}"] {shape}{codes}')
