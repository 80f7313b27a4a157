"""Figures of a model of images: reconstructions, draws of the prior, of each category, and along each unit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from vaekit.diagnostics import category_means, latent_traversal, prior_means
from vaekit.diagnostics.evaluation_mode import evaluation_mode
from vaekit.diagnostics.generation import gaussian_latents, single_categories
from vaekit.plotting import model_figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 12  # pictures side by side
MAX_CATEGORIES = 32


def image_figures(model: Any, data: Any) -> dict[str, Figure]:
    """Return the figures by name.

    ``reconstructions``; ``samples``; ``categories_<name>`` of each single categorical latent (up to 32 categories);
    ``traversals_<name>`` of each Gaussian latent, from the first test image.

    Parameters
    ----------
    model
        The model.
    data
        Its images: an ``ImageData``.
    """
    shape = tuple(data.image_shape)
    drawn = {"reconstructions": reconstructions(model, data), "samples": samples(model, shape)}
    for name in single_categories(model):
        if model.latents[name].size <= MAX_CATEGORIES:
            drawn[f"categories_{name}"] = categories(model, name, shape)
    for name in gaussian_latents(model):
        first = next(iter(data.dataloader("test", batch_size=1)))
        drawn[f"traversals_{name}"] = traversals(model, name, first, shape)
    return drawn


def to_images(flat: Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """Return pictures ``[*rows, channels, height, width]`` of flat ones ``[*rows, features]``."""
    return flat.reshape(*flat.shape[:-1], *shape).cpu().numpy()


def reconstructions(model: Any, data: Any) -> Figure:
    """Draw test images above their reconstructions, from one draw of the latents."""
    batch = next(iter(data.dataloader("test", batch_size=COLUMNS))).to(model.device)
    with evaluation_mode(model):
        values = {name: value.squeeze(0) for name, value in model.sample_posterior(batch, 1).items()}
        means = model.networks.observation(values, batch).mean
    shape = tuple(data.image_shape)
    return model_figures.reconstructions(to_images(batch.x, shape), to_images(means, shape))


def samples(model: Any, shape: tuple[int, ...], count: int = 6 * COLUMNS) -> Figure:
    """Draw means of p(x | z) at draws of the prior, in rows."""
    across = min(COLUMNS, count)
    down = -(-count // across)
    flat = prior_means(model, count)
    sheet = torch.ones(down * across, flat.shape[1], device=flat.device)  # white where the last row ends
    sheet[:count] = flat
    return model_figures.grid(to_images(sheet.unflatten(0, (down, across)), shape), title="draws from the prior")


def categories(model: Any, name: str, shape: tuple[int, ...], count: int = COLUMNS) -> Figure:
    """Draw a row of pictures for each category."""
    flat = category_means(model, name, count)
    rows = [str(category) for category in range(len(flat))]
    return model_figures.grid(to_images(flat, shape), rows, title=f"draws of each category of {name}")


def traversals(model: Any, name: str, batch: Any, shape: tuple[int, ...], steps: int = 11, span: float = 3.0) -> Figure:
    """Draw a row of pictures for each unit of a Gaussian latent, which moves along its prior."""
    flat, positions = latent_traversal(model, name, batch, steps, span)
    rows = [f"{name}[{unit}]" for unit in range(len(flat))]
    columns = [f"{p:+.1f}" if p else "0" for p in positions.round(decimals=6).tolist()]
    title = f"units of {name}, in standard deviations of the prior"
    return model_figures.grid(to_images(flat, shape), rows, columns, title)
