"""Figures of images from a model: reconstructions, samples of the prior and of each category, and traversals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vaekit.diagnostics.generation import (
    category_means,
    gaussian_latents,
    latent_traversal,
    prior_means,
    single_categories,
)
from vaekit.models.evaluation_mode import evaluation_mode
from vaekit.plotting.model_figures import image_grid

if TYPE_CHECKING:
    from vaekit.plotting.model_figures import Figure

COLUMNS = 12  # images per row
MAX_CATEGORIES = 32


def image_figures(model: Any, data: Any) -> dict[str, Figure]:
    """Return all figures of a model of images by name.

    These are ``reconstructions``, ``samples``, ``categories_<name>`` for each single categorical latent with at most 32
    categories, and ``traversals_<name>`` for each Gaussian latent, starting from the first test image.

    Parameters
    ----------
    model : VAE
        The model.
    data : ImageData
        Its images.
    """
    shape = tuple(data.image_shape)
    figures = {"reconstructions": reconstructions(model, data), "samples": samples(model, shape)}
    for name in single_categories(model):
        if model.latents[name].size <= MAX_CATEGORIES:
            figures[f"categories_{name}"] = categories(model, name, shape)
    for name in gaussian_latents(model):
        first = next(iter(data.dataloader("test", batch_size=1)))
        figures[f"traversals_{name}"] = traversals(model, name, first, shape)
    return figures


def reconstructions(model: Any, data: Any) -> Figure:
    """Plot test images above their reconstructions from one sample of the latents."""
    batch = next(iter(data.dataloader("test", batch_size=COLUMNS))).to(model.device)
    with evaluation_mode(model):
        values = {name: value.squeeze(0) for name, value in model.sample_posterior(batch, 1).items()}
        means = model.networks.observation(values, batch).mean
    images = _to_images(torch.stack([batch.x, means]), tuple(data.image_shape))
    return image_grid(images, ["original", "reconstruction"])


def samples(model: Any, shape: tuple[int, ...], count: int = 6 * COLUMNS) -> Figure:
    """Plot means of p(x | z) at samples of the prior, as images of a shape (channels, height, width)."""
    num_columns = min(COLUMNS, count)
    num_rows = -(-count // num_columns)
    means = prior_means(model, count)
    padded = torch.ones(num_rows * num_columns, means.shape[1], device=means.device)  # the last row may end in white
    padded[:count] = means
    images = _to_images(padded.unflatten(0, (num_rows, num_columns)), shape)
    return image_grid(images, title="samples from the prior")


def categories(model: Any, name: str, shape: tuple[int, ...], count: int = COLUMNS) -> Figure:
    """Plot a row of samples for each category of a latent."""
    means = category_means(model, name, count)
    rows = [str(category) for category in range(len(means))]
    return image_grid(_to_images(means, shape), rows, title=f"samples of each category of {name}")


def traversals(model: Any, name: str, batch: Any, shape: tuple[int, ...], steps: int = 11, span: float = 3.0) -> Figure:
    """Plot a row of images for each dimension of a Gaussian latent; see :func:`vaekit.diagnostics.latent_traversal`."""
    means, positions = latent_traversal(model, name, batch, steps, span)
    rows = [f"{name}[{dimension}]" for dimension in range(len(means))]
    columns = [f"{p:+.1f}" if p else "0" for p in positions.round(decimals=6).tolist()]
    title = f"dimensions of {name}, in standard deviations of the prior"
    return image_grid(_to_images(means, shape), rows, columns, title)


def _to_images(flat: Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """Return ``[..., features]`` as ``[..., channels, height, width]``."""
    return flat.reshape(*flat.shape[:-1], *shape).cpu().numpy()
