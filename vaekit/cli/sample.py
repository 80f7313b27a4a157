"""``vaekit sample``: pictures drawn from the prior of a trained model, as a PNG grid."""

from __future__ import annotations

from pathlib import Path

from vaekit._core.atomic import atomic_write
from vaekit.cli.console import Parser, silence_libraries
from vaekit.cli.image_output import image_shape, picture_path
from vaekit.cli.overwriting import refuse_inputs, training_files
from vaekit.cli.seed import seed
from vaekit.exceptions import DataError


def parser() -> Parser:
    """Return the command's parser."""
    made = Parser(
        "vaekit sample",
        description="Draw pictures from the prior of a model of images: the means of p(x | z) at draws of the latents. "
        "With --category, a row for each category of a latent, the others drawn from their priors.",
    )
    made.add_argument("checkpoint", metavar="CKPT", help="checkpoint of a trained model, such as RUN/last.ckpt")
    made.add_argument("-o", "--output", metavar="OUT.png", help="picture to write; default: samples.png beside CKPT")
    made.add_argument("--num_images", type=int, help="pictures in all (96), or of each category (12)")
    made.add_argument("--category", metavar="NAME", help="a latent that is one categorical variable: a row for each")
    made.add_argument("--seed", type=seed, default=0, help="seed of the draws (0)")
    made.add_argument("--overwrite", action="store_true", help="replace OUT.png if it exists")
    return made


def run(arguments: list[str]) -> None:
    """Run the command."""
    options = parser().parse_args(arguments[1:])
    if options.num_images is not None and options.num_images < 1:
        raise DataError(f"--num_images is {options.num_images}; at least 1 picture is needed")
    stem = "samples" if options.category is None else f"samples_{options.category}"
    path = picture_path(options.output, options.overwrite, Path(options.checkpoint).parent, stem)
    refuse_inputs(path, (options.checkpoint,))
    silence_libraries()

    import torch

    from vaekit.callbacks import image_figures
    from vaekit.models import load

    model = load(options.checkpoint)
    refuse_inputs(path, training_files(model))
    shape = image_shape(model, options.checkpoint)
    torch.manual_seed(options.seed)
    if options.category is None:
        figure = image_figures.samples(model, shape, options.num_images or 8 * image_figures.COLUMNS)
    else:
        figure = image_figures.categories(model, options.category, shape, options.num_images or image_figures.COLUMNS)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
    print(f"wrote {path}")
