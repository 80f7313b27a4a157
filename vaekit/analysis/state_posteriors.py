"""Posteriors of cells under several models, in an order that follows from the cells, and confusion of components."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from vaekit.analysis.state_mixture import NormalPosterior, StateMixture
from vaekit.data.cells.query import QueryData
from vaekit.data.dataset import sequential_loader
from vaekit.diagnostics.keyed_noise import draw_by_key, observation_keys
from vaekit.exceptions import CheckpointError
from vaekit.latents.activity import ACTIVE_VARIANCE
from vaekit.models import VAE
from vaekit.models.evaluation_mode import evaluation_mode

NUM_DRAWS = 32  # samples of the latents per cell


class CellPosteriors(NamedTuple):
    """Normal posteriors of cells under each of several models.

    Attributes
    ----------
    posteriors : list of NormalPosterior
        Active dimensions of all normal latents of each model.
    dimensions : list of ndarray
        Indices of these dimensions among those of the normal latents.
    keys : ndarray of uint64, shape (cells,)
        Keys of the cells' content.
    latents : sequence of ndarray
        Posterior means of all dimensions, for figures; empty for a selection of cells.
    """

    posteriors: list[NormalPosterior]
    dimensions: list[np.ndarray]
    keys: np.ndarray
    latents: Sequence[np.ndarray] = ()

    def select(self, index: np.ndarray | slice) -> CellPosteriors:
        """Return the posteriors of some cells."""
        return CellPosteriors([q.select(index) for q in self.posteriors], self.dimensions, self.keys[index])


def normal_latents(model: VAE) -> list[str]:
    """Return the names of the latents with a normal posterior, without a library size."""
    return [name for name, latent in model.latents.items() if latent.has_normal_posterior and latent.is_coordinate]


def read_posteriors(
    models: Sequence[VAE],
    queries: Sequence[QueryData],
    batch_size: int,
    seed: int,
    progress: bool,
    dimensions: Sequence[np.ndarray] | None = None,
) -> CellPosteriors:
    """Return the posteriors of the same cells under each model.

    Parameters
    ----------
    models, queries : sequence
        Models, and the cells in the form of each.
    batch_size, seed, progress
        Cells per mini-batch, seed of the keys, and whether to show a progress bar per model.
    dimensions : sequence of ndarray or None
        Dimensions of each model. None: those that are active in these cells.

    Raises
    ------
    CheckpointError
        If a model does not have an active dimension.
    """
    from tqdm.auto import tqdm

    posteriors, used, keys, latents = [], [], [], []
    for number, (model, query) in enumerate(zip(models, queries, strict=True)):
        names, means, variances = normal_latents(model), [], []
        loader = sequential_loader(query.dataset, batch_size)
        with evaluation_mode(model):
            for batch in tqdm(loader, f"embedding by model {number}", unit="batch", disable=not progress):
                if number == 0:
                    keys.append(observation_keys(batch, seed))
                q = model.posteriors(batch.to(model.device))
                means.append(torch.cat([q[name].mean for name in names], -1).double().cpu().numpy())
                variances.append(torch.cat([q[name].variance for name in names], -1).double().cpu().numpy())
        mean, variance = np.concatenate(means), np.concatenate(variances)
        active = np.flatnonzero(mean.var(0) > ACTIVE_VARIANCE) if dimensions is None else dimensions[number]
        if not len(active):
            raise CheckpointError(
                f"models[{number}]: no dimension of {', '.join(names)} is active (variance of the posterior means over "
                f"the cells above {ACTIVE_VARIANCE}). Train it for longer, or with a smaller KL weight."
            )
        posteriors.append(NormalPosterior(mean[:, active], variance[:, active]))
        used.append(active)
        latents.append(mean)
    return CellPosteriors(posteriors, used, np.concatenate(keys), latents)


def confusion_matrix(mixture: StateMixture, cells: CellPosteriors, progress: bool = False) -> np.ndarray:
    """Return the mean of the products of two components' probabilities over samples, ``[components, components]``.

    Each sample draws the latents of a cell in all models from their posteriors. Its noise follows from the cell's key.
    """
    from tqdm.auto import tqdm

    sizes = [q.mean.shape[1] for q in cells.posteriors]
    total = np.zeros((len(mixture.weights), len(mixture.weights)))
    for draw in tqdm(range(NUM_DRAWS), "comparing components", unit="sample", disable=not progress):
        keys = cells.keys + np.uint64(draw)
        noise = draw_by_key(lambda part: torch.randn(1, len(keys[part]), sum(sizes)), keys, 1)[0]  # noqa: B023
        samples = [
            NormalPosterior(q.mean + np.sqrt(q.variance) * part.double().numpy(), np.zeros_like(q.mean))
            for q, part in zip(cells.posteriors, noise.split(sizes, 1), strict=True)
        ]
        probabilities = mixture.probabilities(mixture.scores(samples))
        total += probabilities.T @ probabilities / len(keys)
    return total / NUM_DRAWS
