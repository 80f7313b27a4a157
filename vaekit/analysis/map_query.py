"""Extension of a trained model by new batches: only the parameters of the new batches are trained."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vaekit._core.components import from_config
from vaekit.analysis.model_source import get_count_registry, open_cells, resolve_model
from vaekit.batch import Batch
from vaekit.data.cells.columns import match_category, read_column
from vaekit.data.cells.query import prepare_query
from vaekit.exceptions import CheckpointError, DataError
from vaekit.models import VAE
from vaekit.models.objectives import ELBO
from vaekit.models.parameter_groups import match_precision

if TYPE_CHECKING:
    from anndata import AnnData

FEW_CELLS = 100  # of a new batch
SHIFT = "networks.likelihood.composition_shift"


def map_query(
    adata: AnnData,
    model: VAE | str | Path,
    *,
    layer: str | None = None,
    batch_key: str | None = None,
    max_steps: int = 500,
    max_epochs: int | None = None,
    learning_rate: float = 2e-2,
    batch_size: int = 128,
    progress: bool = False,
    seed: int = 0,
) -> VAE:
    r"""Extend a trained model by the batches of new cells.

    Every parameter that depends on the batch gets new elements for each new batch, which start at the mean over the
    known batches: columns of the covariates in encoder and decoder, and dispersions by batch. A count likelihood also
    gets a shift of each gene in each new batch (``gene_shift``), because a decoder can only express effects that it has
    learned. A latent library size gets the mean and standard deviation of the new batches. Only the new elements are
    trained, on the cells of the new batches, to maximize

    .. math:: \sum_i \mathrm{ELBO}(x_i) + \sum_{b, g} \log N(\delta_{bg}; 0, 1)

    with the shifts :math:`\delta` (natural logarithms). All other weights keep their bits, and the results for known
    cells change by rounding errors only.

    Parameters
    ----------
    adata : AnnData
        New cells, some of them from new batches; not changed.
    model : VAE or path
        Trained model, or its checkpoint; not changed.
    layer, batch_key, progress
        As in :func:`vaekit.analysis.embed`.
    max_steps : int
        Number of training steps. The number of steps needed does not depend on the number of cells.
    max_epochs : int, optional
        Number of passes over the cells of new batches, instead of ``max_steps``.
    learning_rate : float
        Initial learning rate of Adam; it decays to 0 by a cosine schedule.
    batch_size : int
        Cells per mini-batch.
    seed : int
        Seed of the samples and of the order of cells.

    Returns
    -------
    VAE
        New model in evaluation mode with the old and the new batches, for all functions of ``vaekit.analysis`` and
        for :func:`vaekit.save`.

    Warns
    -----
    UserWarning
        If a new batch has fewer than 100 cells: its effect is uncertain.

    Raises
    ------
    CheckpointError
        If the model was trained on images, or without batches.
    DataError
        If all batches are known, the genes do not fit the model, or a number is invalid.

    Notes
    -----
    A difference that all new cells share is attributed to their batch. Therefore new cells should be of several types,
    some of them in the training data. With a single type, the effects of type and batch cannot be separated.

    Lotfollahi et al. (2022), Mapping single-cell data to reference atlases by transfer learning.
    """
    for name, value in (("max_steps", max_steps), ("max_epochs", max_epochs), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise DataError(f"map_query: {name}={value} must be at least 1.")
    if not learning_rate > 0:
        raise DataError(f"map_query: learning_rate={learning_rate} must be positive.")
    model, _ = resolve_model(model)
    registry = get_count_registry(model)
    known_batches = list(registry["batch_categories"])
    if not known_batches:
        raise CheckpointError(
            "map_query: the model was trained without batches, so it cannot learn the effect of one. Use "
            "vaekit.analysis.embed for new cells."
        )
    batch_key = batch_key or registry["config"]["init_args"]["batch_key"]
    cells = open_cells(model, adata, layer, backed=False)  # mini-batches are random
    source = cells.name
    column = read_column(cells.obs, str(batch_key), "batch_key", source)
    new_batches = [name for name in column.categories if match_category(name, known_batches) not in known_batches]
    if not new_batches:
        raise DataError(
            f"batch_key={batch_key!r}: the model knows all batches of {source}: {', '.join(map(repr, known_batches))}. "
            "Use vaekit.analysis.embed for these cells."
        )
    extended = {**registry, "batch_categories": [*known_batches, *new_batches]}
    dataset = prepare_query(cells, extended, batch_key).dataset
    batches = column.names()
    sizes = {name: int((batches == name).sum()) for name in new_batches}
    if few := [f"{name!r} ({size} cells)" for name, size in sizes.items() if size < FEW_CELLS]:
        warnings.warn(
            f"{source}: new batches have fewer than {FEW_CELLS} cells: {', '.join(few)}. Their effects on rarely "
            "expressed genes are uncertain and shrink towards those of the known batches.",
            UserWarning,
            stacklevel=2,
        )
    index = torch.from_numpy(np.flatnonzero(np.isin(batches, new_batches)))
    num_steps = max_steps if max_epochs is None else max_epochs * -(-len(index) // batch_size)
    with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        mapped, new = _extend(model, len(known_batches), len(new_batches))
        assert dataset.covariates is not None  # the batches are covariates
        batch = dataset.covariates[index, : len(known_batches) + len(new_batches)].argmax(1)
        with torch.no_grad():
            for latent in mapped.latents.values():
                latent.init_new_batches(dataset.size_factor[index].log().flatten(), batch)
        parts = itertools.islice(_shuffle(index, batch_size), num_steps)
        _train(mapped, new, (dataset.__getitems__(p) for p in parts), num_steps, len(index), learning_rate, progress)
    mapped.data_registry = extended
    return mapped.eval()


def _extend(model: VAE, num_known: int, num_added: int) -> tuple[VAE, dict[str, Tensor]]:
    """Return a copy of the model with more batches, and masks of the new elements of its parameters."""
    arguments = {key: value for key, value in model.hparams.items() if key != "_class_path"}
    arguments["covariates"] = model.covariates + num_added
    if model.networks.likelihood.has_composition:
        likelihood = arguments["likelihood"]
        arguments["likelihood"] = {**likelihood, "init_args": {**likelihood["init_args"], "gene_shift": True}}
    extended = from_config({"class_path": model.hparams["_class_path"], "init_args": arguments})
    state, new = extended.state_dict(), {}
    num_others = model.covariates - num_known  # covariates after the batches
    for name, old in model.state_dict().items():
        if state[name].shape == old.shape:
            state[name] = old
            continue
        axis = next(i for i, (a, b) in enumerate(zip(state[name].shape, old.shape, strict=True)) if a != b)
        end = old.shape[axis] - num_others  # of the known batches: the covariates are last along the axis
        mean = old.narrow(axis, end - num_known, num_known).mean(axis, keepdim=True)
        shape = [num_added if i == axis else size for i, size in enumerate(old.shape)]
        state[name] = torch.cat((old.narrow(axis, 0, end), mean.expand(shape), old.narrow(axis, end, num_others)), axis)
        new[name] = torch.zeros(state[name].shape, dtype=torch.bool, device=old.device)
        new[name].narrow(axis, end, num_added).fill_(True)
    if SHIFT in state and SHIFT not in model.state_dict():  # the shifts of the known batches stay 0
        new[SHIFT] = torch.zeros(state[SHIFT].shape, dtype=torch.bool, device=model.device)
        new[SHIFT][num_known : num_known + num_added] = True
    match_precision(extended, state)
    extended.load_state_dict(state)
    return extended.eval().to(model.device), new


def _train(
    model: VAE,
    new: dict[str, Tensor],
    minibatches: Iterator[Batch],
    num_steps: int,
    num_cells: int,
    learning_rate: float,
    progress: bool,
) -> None:
    """Maximize the ELBO and the prior density of the shifts with respect to the new elements."""
    from tqdm.auto import tqdm

    trained = {name: parameter for name, parameter in model.named_parameters() if name in new}
    model.requires_grad_(False)
    for parameter in trained.values():
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(trained.values(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    for batch in tqdm(minibatches, "mapping", num_steps, unit="step", disable=not progress):
        optimizer.zero_grad()
        loss = _loss(model, batch.to(model.device)).mean()
        if SHIFT in trained:
            loss = loss + (trained[SHIFT] * new[SHIFT]).square().sum() / (2 * num_cells)
        loss.backward()
        for name, parameter in trained.items():
            assert parameter.grad is not None
            parameter.grad.mul_(new[name])  # Adam does not move elements whose gradient was always 0
        optimizer.step()
        schedule.step()
    model.requires_grad_(True)


def _loss(model: VAE, batch: Batch) -> Tensor:
    """Return minus the ELBO, ``[batch]``, regardless of the model's objective; its estimators give the gradients."""
    num_samples = model.objective.num_samples  # estimators and baselines are built for this number of joint samples
    return model.loss(batch, training=True, objective=ELBO(num_samples=num_samples)).total


def _shuffle(index: Tensor, batch_size: int) -> Iterator[Tensor]:
    """Yield mini-batches of the index endlessly, in a new order per epoch."""
    while True:
        yield from index[torch.randperm(len(index))].split(batch_size)
