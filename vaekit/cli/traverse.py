"""``vaekit traverse``: what each unit of a Gaussian latent does to a picture, as a PNG grid."""

from __future__ import annotations

from pathlib import Path

from vaekit._core.atomic import atomic_write
from vaekit.cli.console import Parser, silence_libraries
from vaekit.cli.image_output import image_shape, picture_path
from vaekit.cli.overwriting import refuse_inputs, training_files
from vaekit.exceptions import CheckpointError, DataError


def parser() -> Parser:
    """Return the command's parser."""
    made = Parser(
        "vaekit traverse",
        description="Move each unit of a Gaussian latent along its prior, a row of pictures for each unit, the other "
        "latents kept as the encoder has them for one test image of the training data.",
    )
    made.add_argument("checkpoint", metavar="CKPT", help="checkpoint of a trained model, such as RUN/last.ckpt")
    made.add_argument("-o", "--output", metavar="OUT.png", help="picture to write; default: traversals.png beside CKPT")
    made.add_argument("--latent", metavar="NAME", help="the Gaussian latent; needed where there are several")
    made.add_argument("--index", type=int, default=0, metavar="N", help="number of the test image to start from (0)")
    made.add_argument("--num_steps", type=int, default=11, help="pictures in a row (11)")
    made.add_argument("--num_std", type=float, default=3.0, help="standard deviations of the prior to both sides (3)")
    made.add_argument("--overwrite", action="store_true", help="replace OUT.png if it exists")
    return made


def run(arguments: list[str]) -> None:
    """Run the command."""
    options = parser().parse_args(arguments[1:])
    if options.num_steps < 2 or not options.num_std > 0:
        raise DataError(f"--num_steps is {options.num_steps} (2 at least) and --num_std {options.num_std:g} (positive)")
    path = picture_path(options.output, options.overwrite, Path(options.checkpoint).parent, "traversals")
    refuse_inputs(path, (options.checkpoint,))
    silence_libraries()

    from vaekit.analysis import load_training_data
    from vaekit.callbacks import image_figures
    from vaekit.diagnostics.generation import gaussian_latents
    from vaekit.models import load

    model = load(options.checkpoint)
    refuse_inputs(path, training_files(model))
    shape, names = image_shape(model, options.checkpoint), gaussian_latents(model)
    if not names:
        raise CheckpointError(f"{options.checkpoint} has no Gaussian latent; it has {', '.join(model.latents)}")
    if options.latent is None and len(names) > 1:
        raise DataError(f"which latent? pass --latent with one of {', '.join(names)}")
    name = options.latent or names[0]
    data = load_training_data(model)
    rows = data.split_indices["test"]
    if not 0 <= options.index < len(rows):
        raise DataError(f"--index is {options.index}; there are {len(rows)} test images, counted from 0")
    batch = data.dataset.__getitems__(rows[options.index : options.index + 1])
    figure = image_figures.traversals(model, name, batch, shape, options.num_steps, options.num_std)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
    print(f"wrote {path}: {model.latents[name].size} units of {name}")
