"""Commands for a trained model of images, like those of :mod:`vaekit.cli.model_commands`."""

from __future__ import annotations

from pathlib import Path

from vaekit._core.arguments import check_minimum, check_seed
from vaekit.cli.output_files import figure_path, image_shape, load_model
from vaekit.exceptions import CheckpointError, DataError


def sample(
    checkpoint: str | Path,
    *,
    output: str | Path | None = None,
    num_images: int | None = None,
    category: str | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Draw images from the prior of a model of images, as a PNG grid.

    The images are means of p(x | z) at samples of the latents.

    Parameters
    ----------
    checkpoint
        As for every command (:data:`vaekit.cli.common_arguments.DESCRIPTIONS`).
    output : str or Path, optional
        .png file to write. None: samples.png next to the checkpoint.
    num_images : int, optional
        Number of images. None: 96, or 12 per category.
    category : str, optional
        Latent with one categorical variable: draw one row per category, and sample the other latents.
    overwrite : bool
        Replace the output if it exists.

    Other Parameters
    ----------------
    seed
        As for every command.

    Examples
    --------
    vaekit sample RUN/last.ckpt --category y
    """
    import torch

    from vaekit.diagnostics import image_figures
    from vaekit.plotting import save_figure

    check_seed(seed)
    check_minimum(1, num_images=num_images)
    stem = "samples" if category is None else f"samples_{category}"
    path = figure_path(output, overwrite, Path(checkpoint).parent, stem)
    model = load_model(checkpoint, path)
    shape = image_shape(model, checkpoint)
    torch.manual_seed(seed)
    if category is None:
        figure = image_figures.samples(model, shape, num_images or 8 * image_figures.COLUMNS)
    else:
        figure = image_figures.categories(model, category, shape, num_images or image_figures.COLUMNS)
    save_figure(figure, path)
    print(f"Wrote {path}")


def traverse(
    checkpoint: str | Path,
    *,
    output: str | Path | None = None,
    latent: str | None = None,
    index: int = 0,
    num_steps: int = 11,
    num_std: float = 3.0,
    overwrite: bool = False,
) -> None:
    """Show the effect of each dimension of a Gaussian latent on an image.

    Each row of images moves one dimension along its prior. The other latents keep the values that the encoder gives
    them for one test image of the training data.

    Parameters
    ----------
    checkpoint
        As for every command (:data:`vaekit.cli.common_arguments.DESCRIPTIONS`).
    output : str or Path, optional
        .png file to write. None: traversals.png next to the checkpoint.
    latent : str, optional
        Name of the Gaussian latent. None: the only one.
    index : int
        Index of the test image to start from.
    num_steps : int
        Number of images per row.
    num_std : float
        Distance to both sides, in standard deviations of the prior.
    overwrite : bool
        Replace the output if it exists.

    Examples
    --------
    vaekit traverse RUN/last.ckpt
    """
    from vaekit.analysis import load_training_data
    from vaekit.diagnostics import image_figures
    from vaekit.diagnostics.generation import gaussian_latents
    from vaekit.plotting import save_figure

    check_minimum(2, num_steps=num_steps)
    if not num_std > 0:
        raise DataError(f"num_std={num_std:g} must be positive.")
    path = figure_path(output, overwrite, Path(checkpoint).parent, "traversals")
    model = load_model(checkpoint, path)
    shape, names = image_shape(model, checkpoint), gaussian_latents(model)
    if not names:
        raise CheckpointError(
            f"{checkpoint} does not have a Gaussian latent; its latents are {', '.join(model.latents)}."
        )
    if latent is None and len(names) > 1:
        raise DataError(f"{checkpoint} has several Gaussian latents. Pass --latent with one of {', '.join(names)}")
    latent = latent or names[0]
    data = load_training_data(model)
    rows = data.split_indices["test"]
    if not 0 <= index < len(rows):
        raise DataError(f"index={index} must be from 0 to {len(rows) - 1}: there are {len(rows)} test images.")
    batch = data.dataset.__getitems__(rows[index : index + 1])
    save_figure(image_figures.traversals(model, latent, batch, shape, num_steps, num_std), path)
    print(f"Wrote {path}: {model.latents[latent].size} dimensions of {latent}")
