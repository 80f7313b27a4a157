"""Training of the parameters of new batches; all other parameters keep their bits."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from vaekit.analysis.batch_extension import NewElements
from vaekit.batch import Batch
from vaekit.data.dataset import BatchDataset
from vaekit.models import VAE
from vaekit.models.evaluation_mode import evaluation_mode
from vaekit.models.objectives import ELBO

NUM_SCORED = 2000  # cells for the ELBO before and after the training


def train_elements(
    model: VAE,
    new: Mapping[str, NewElements],
    dataset: BatchDataset,
    index: Tensor,
    num_steps: int,
    batch_size: int,
    learning_rate: float,
    progress: bool,
) -> None:
    """Maximize the ELBO of cells plus the log prior density with respect to the new elements of parameters.

    Parameters
    ----------
    model : VAE
        Result of :func:`vaekit.analysis.batch_extension.extend_batches`; changed.
    new : mapping
        New elements of its parameters, by name.
    dataset, index
        Cells, and the indices of those of new batches.
    num_steps, batch_size : int
        Number of steps, and largest number of cells per mini-batch.
    learning_rate : float
        Initial learning rate of Adam.
    progress : bool
        Whether to show a progress bar.
    """
    from tqdm.auto import tqdm

    trained = {name: parameter for name, parameter in model.named_parameters() if name in new}
    model.requires_grad_(False)
    for parameter in trained.values():
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(trained.values(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    minibatches = itertools.islice(_shuffle(index, batch_size), num_steps)
    for part in tqdm(minibatches, "mapping", num_steps, unit="step", disable=not progress):
        optimizer.zero_grad()
        loss = _loss(model, dataset.__getitems__(part).to(model.device)).mean()
        penalties = [new[name].penalty(parameter) for name, parameter in trained.items()]
        (loss + torch.stack(penalties).sum() / len(index)).backward()
        for name, parameter in trained.items():
            assert parameter.grad is not None
            parameter.grad.mul_(new[name].mask)  # Adam does not move elements whose gradient was always 0
        optimizer.step()
        schedule.step()
    model.requires_grad_(True)


def mean_elbo(model: VAE, dataset: BatchDataset, index: Tensor) -> float:
    """Return the mean ELBO of cells in nats, from at most 2,000 of them at equal distances."""
    index = index[:: -(-len(index) // NUM_SCORED)]
    with evaluation_mode(model), torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(0)
        parts = [model.loss(dataset.__getitems__(part).to(model.device)).total.sum() for part in index.split(256)]
    return -float(torch.stack(parts).sum()) / len(index)


def _loss(model: VAE, batch: Batch) -> Tensor:
    """Return minus the ELBO, ``[batch]``, regardless of the model's objective; its estimators give the gradients."""
    num_samples = model.objective.num_samples  # estimators and baselines are built for this number of joint samples
    return model.loss(batch, training=True, objective=ELBO(num_samples=num_samples)).total


def _shuffle(index: Tensor, batch_size: int) -> Iterator[Tensor]:
    """Yield mini-batches of nearly equal size endlessly, in a new order per epoch."""
    num_batches = -(-len(index) // batch_size)
    while True:
        yield from index[torch.randperm(len(index))].tensor_split(num_batches)
