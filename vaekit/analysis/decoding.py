"""Compositions of genes, decoded from a trained model with bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from vaekit.analysis.model_source import get_data_registry
from vaekit.batch import Batch
from vaekit.data.cells.columns import match_category
from vaekit.data.dataset import BatchDataset
from vaekit.diagnostics.evaluation_mode import evaluation_mode
from vaekit.diagnostics.keyed_noise import draw_by_key
from vaekit.exceptions import CheckpointError, DataError, did_you_mean
from vaekit.models import VAE

DECODED = 2**21  # draws times cells times genes held at a time


@contextmanager
def evaluating(model: VAE, seed: int = 0) -> Iterator[None]:
    """Put the model into evaluation mode, without gradients and with its draws seeded; undo all three afterwards.

    Raises
    ------
    CheckpointError
        If the likelihood has no composition over genes.
    """
    if not model.networks.likelihood.uses_size_factor:
        raise CheckpointError(
            f"the model's likelihood is {type(model.networks.likelihood).__name__}, which has no composition over "
            "genes; NegativeBinomial, ZeroInflatedNegativeBinomial and Poisson have one"
        )
    with evaluation_mode(model), torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def composition(model: VAE, values: Mapping[str, Tensor], batch: Batch) -> Tensor:
    """Return the expected share of each gene in a cell's counts, ``[*rows, batch, genes]``; sums to 1.

    Additional zeros (of a zero-inflated likelihood) and the library size are no part of it.
    """
    networks = model.networks
    logits: Tensor = networks.likelihood.logits(networks.decode(values, batch), batch)  # type: ignore[operator]
    return logits.softmax(-1)


def measured(share: Tensor, batch: Batch) -> Tensor:
    """Return compositions ``[*rows, batch, genes]`` over the genes that were measured: 0 elsewhere, with the sum 1."""
    if batch.observed is None:
        return share
    share = torch.where(batch.observed, share, 0)
    return share / share.sum(-1, keepdim=True)


def draws(model: VAE, batch: Batch, num_samples: int, keys: np.ndarray) -> dict[str, Tensor]:
    """Draw the latents from their posteriors, each ``[num_samples, batch, *event]``, by the keys of the cells."""
    h = model.networks.encode(batch)
    return draw_by_key(lambda part: model.networks.sample_posterior(h[part], num_samples), keys, num_samples)


def check_sizes(num_samples: int, batch_size: int) -> None:
    """Check the numbers of draws and of cells at a time.

    Raises
    ------
    DataError
        If one is not positive.
    """
    if num_samples < 1 or batch_size < 1:
        raise DataError(f"num_samples is {num_samples} and batch_size {batch_size}: at least 1 is needed")


def chunks(
    model: VAE, dataset: BatchDataset, rows: Tensor, num_samples: int, batch_size: int
) -> Iterator[tuple[Tensor, Batch]]:
    """Yield the numbers of some rows and their batch, on the model's device, few enough to decode at once."""
    check_sizes(num_samples, batch_size)
    step = max(1, min(batch_size, DECODED // (num_samples * model.features)))
    for part in rows.split(step):
        yield part, dataset.__getitems__(part).to(model.device)


def batch_indices(model: VAE, wanted: str | list[str] | tuple[str, ...] | None) -> list[int]:
    """Return the one-hot columns of the batches that are named; of all for None.

    Raises
    ------
    DataError
        If one is unknown, or the model knows no batches.
    """
    known = list(get_data_registry(model)["batch_categories"])
    if wanted is None:
        return list(range(len(known)))
    names = [match_category(name, known) for name in ([wanted] if np.isscalar(wanted) else wanted)]
    if not known:
        raise DataError(
            f"transform_batch={wanted!r}: the model was trained without batches; leave transform_batch out, or train "
            "with a batch_key"
        )
    if not names:
        raise DataError(f"transform_batch={wanted!r} names no batch. {did_you_mean('', known)}")
    for name in names:
        if name not in known:
            hint = did_you_mean(str(name).strip(), known)
            raise DataError(f"transform_batch={name!r}: the model knows no such batch. {hint}")
    return [known.index(name) for name in names]


def set_batch(batch: Batch, number: int | Tensor, batches: int) -> Batch:
    """Return the cells as if they came from other batches.

    Parameters
    ----------
    batch
        The cells.
    number
        Number of the batch, the same for all, or int64 ``[*rows, batch]``.
    batches
        Number of batches that the model knows: the first columns of the covariates.
    """
    assert batch.covariates is not None  # a model with batches has them
    number = torch.as_tensor(number, device=batch.covariates.device)
    one_hot = torch.nn.functional.one_hot(number.expand(*number.shape[:-1], len(batch.x)), batches)
    others = batch.covariates[:, batches:].expand(*one_hot.shape[:-1], -1)
    return batch._replace(covariates=torch.cat([one_hot.to(others.dtype), others], -1))
