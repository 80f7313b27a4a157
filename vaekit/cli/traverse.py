"""``vaekit traverse``: what each unit of a Gaussian latent does to a picture, as a PNG grid."""

from __future__ import annotations

from pathlib import Path

from vaekit._core.atomic import written
from vaekit.cli.console import Parser, quiet
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
    made.add_argument("--image", type=int, default=0, metavar="N", help="number of the test image to start from (0)")
    made.add_argument("--steps", type=int, default=11, help="pictures in a row (11)")
    made.add_argument("--span", type=float, default=3.0, help="standard deviations of the prior to both sides (3)")
    made.add_argument("--overwrite", action="store_true", help="replace OUT.png if it exists")
    return made


def run(arguments: list[str]) -> None:
    """Run the command."""
    options = parser().parse_args(arguments[1:])
    if options.steps < 2 or not options.span > 0:
        raise DataError(f"--steps is {options.steps} (2 at least) and --span {options.span:g} (positive)")
    path = picture_path(options.output, options.overwrite, Path(options.checkpoint).parent, "traversals")
    refuse_inputs(path, (options.checkpoint,))
    quiet()

    from vaekit.analysis import training_data
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
    data = training_data(model)
    rows = data.split_indices["test"]
    if not 0 <= options.image < len(rows):
        raise DataError(f"--image is {options.image}; there are {len(rows)} test images, counted from 0")
    batch = data.dataset.__getitems__(rows[options.image : options.image + 1])
    figure = image_figures.traversals(model, name, batch, shape, options.steps, options.span)
    with written(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
    print(f"wrote {path}: {model.latents[name].size} units of {name}")
