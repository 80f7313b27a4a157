"""Samples of the latents of cells, and the compositions of genes that a model decodes from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vaekit._core import memory_budget
from vaekit.batch import Batch
from vaekit.data.dataset import BatchDataset
from vaekit.diagnostics.keyed_noise import draw_by_key, hash_names, number_repeats, observation_keys
from vaekit.exceptions import CheckpointError, DataError
from vaekit.models import VAE
from vaekit.models.evaluation_mode import evaluation_mode


@contextmanager
def evaluating(model: VAE, seed: int = 0) -> Iterator[None]:
    """Set evaluation mode, disable gradients and seed torch within a ``with`` block; restore all three after it."""
    if not model.networks.likelihood.has_composition:
        raise CheckpointError(
            f"{type(model.networks.likelihood).__name__} likelihood does not have a composition over genes. Train with "
            "NegativeBinomial, ZeroInflatedNegativeBinomial or Poisson."
        )
    with evaluation_mode(model), torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


class Chunk(NamedTuple):
    """Cells that are decoded together: their indices, their mini-batch on the model's device, and their keys."""

    cells: Tensor
    batch: Batch
    keys: np.ndarray


@dataclass(frozen=True)
class PosteriorSampler:
    """Sampler of the latents of many cells, ``num_samples`` per cell, in chunks of at most ``batch_size`` cells.

    The samples of a cell follow from its counts, the seed, and its name or covariates, but not from its position.
    Antithetic ones serve means only (:func:`vaekit.diagnostics.keyed_noise.draw_by_key`).
    """

    model: VAE
    num_samples: int
    batch_size: int
    seed: int
    antithetic: bool = False

    def __post_init__(self) -> None:
        for name in ("num_samples", "batch_size"):
            if getattr(self, name) < 1:
                raise DataError(f"{name}={getattr(self, name)} must be at least 1.")

    @property
    def chunk_size(self) -> int:
        """Number of cells of a chunk whose samples of all genes fit into memory."""
        return max(1, min(self.batch_size, memory_budget.DECODED_VALUES // (self.num_samples * self.model.features)))

    def chunks(
        self, dataset: BatchDataset, index: Tensor, names: Sequence[str] | None, description: str, progress: bool
    ) -> Iterator[Chunk]:
        """Yield the cells at ``index`` in chunks whose samples of all genes fit into memory.

        Without ``names``, cells of equal content get different samples in the order of ``index``; sums do not depend
        on it.
        """
        from tqdm.auto import tqdm

        hashes = None if names is None else hash_names(names)
        repeats: dict[int, int] = {}
        step = self.chunk_size
        with tqdm(total=len(index), desc=description, unit="cell", disable=not progress) as bar:
            for part in index.split(step):
                batch = dataset.__getitems__(part).to(self.model.device)
                keys = observation_keys(batch, self.seed, None if hashes is None else hashes[part.numpy()])
                yield Chunk(part, batch, number_repeats(keys, repeats) if hashes is None else keys)
                bar.update(len(part))

    def sample(self, chunk: Chunk) -> dict[str, Tensor]:
        """Sample all latents of a chunk from their posteriors, each ``[num_samples, batch, *event]``."""
        networks = self.model.networks
        h = networks.encode(chunk.batch)
        return draw_by_key(
            lambda part: networks.sample_posterior(h[part], self.num_samples),
            chunk.keys,
            self.num_samples,
            self.antithetic,
        )


def composition(model: VAE, latents: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """Return the expected fraction of each gene in a cell's counts, ``[*sample, batch, genes]``; sums to 1.

    It does not depend on the library size or on the additional zeros of a zero-inflated likelihood.
    """
    networks = model.networks
    logits: Tensor = networks.likelihood.logits(networks.decode(latents, batch), batch)  # type: ignore[operator]
    return logits.softmax(-1)
