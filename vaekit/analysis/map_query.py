"""A new batch on a trained reference: only what belongs to the new batch is trained."""

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
from vaekit.analysis.model_source import get_data_registry, resolve_model
from vaekit.batch import Batch
from vaekit.data.cells.align import query_dataset
from vaekit.data.cells.columns import Column, match_category, read_column
from vaekit.data.cells.sources import open_adata
from vaekit.data.dataset import CountDataset
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

    All that depends on the batch gets a part for each new one, which starts at the mean of the known batches': columns
    of the covariates in encoder and decoder, dispersions by batch. A count likelihood gets besides a shift of each
    gene in each new batch (``gene_shift``), as a decoder can express only such effects as it has learned. A latent
    library size takes the moments of the new cells'. These parts alone are trained, on the new batches' cells, to raise

    .. math:: \sum_i \mathrm{ELBO}(x_i) + \sum_{b, g} \log N(\delta_{bg}; 0, 1)

    with the shifts delta (natural logarithm). All other weights stay as they are, to the last bit, and but for
    rounding so does what the model says of the cells that it knows.

    Parameters
    ----------
    adata
        New cells, of which some come from batches that the model does not know; not changed.
    model
        A trained model, or the path of its checkpoint; not changed.
    layer, batch_key
        As in :func:`vaekit.analysis.embed`.
    max_steps
        Number of training steps. How many it takes does not depend on the number of cells.
    max_epochs
        Number of passes over the cells of new batches in place of ``max_steps``; None for those.
    learning_rate
        Of Adam; it falls to 0 along a cosine.
    batch_size
        Cells at a time.
    progress
        Whether to show a progress bar.
    seed
        Of the draws and the order of cells.

    Returns
    -------
    VAE
        A new model, in evaluation mode, which knows the old and the new batches: for all functions of
        ``vaekit.analysis``, and for :func:`vaekit.save`.

    Warns
    -----
    UserWarning
        If a new batch has fewer than 100 cells: its effect is then uncertain.

    Raises
    ------
    CheckpointError
        If the model was trained on images, or without batches.
    DataError
        If all batches are known already, the genes do not fit the model, or the numbers are impossible.

    Notes
    -----
    What all new cells share is taken for their batch's. So new cells should be of several types, of which the reference
    has some: of a single type, the effects of type and batch cannot be told apart.

    Lotfollahi et al. (2022), Mapping single-cell data to reference atlases by transfer learning.
    """
    if min(max_steps, 1 if max_epochs is None else max_epochs, batch_size) < 1 or not learning_rate > 0:
        raise DataError(
            f"max_steps is {max_steps}, max_epochs is {max_epochs} and batch_size {batch_size} (1 at least), "
            f"learning_rate {learning_rate} (positive)"
        )
    model, _ = resolve_model(model)
    registry = get_data_registry(model)
    if "feature_names" not in registry:
        raise CheckpointError("the model was trained on images; this is for gene expression")
    known = list(registry["batch_categories"])
    if not known:
        raise CheckpointError(
            "the model was trained without batches, and has no effect of a batch to learn; "
            "vaekit.analysis.embed takes new cells as they are"
        )
    trained = registry["config"]["init_args"]
    layer, batch_key = layer or registry["matrix"], batch_key or trained["batch_key"]
    adata, source = open_adata(adata, layer, registry["gene_name_key"])
    column = read_column(adata.obs, str(batch_key), "batch_key", source)
    added = [name for name in column.categories if match_category(name, known) not in known]
    if not added:
        raise DataError(
            f"batch_key={batch_key!r}: the model knows all batches of {source}: {', '.join(map(repr, known))}; there "
            "is nothing to train, vaekit.analysis.embed takes these cells"
        )
    extended = {**registry, "batch_categories": [*known, *added]}
    dataset = query_dataset(adata, extended, layer, batch_key).dataset
    rows = torch.from_numpy(np.flatnonzero(np.isin(column.names(), added)))
    _warn_few(column, added, source)
    steps = max_steps if max_epochs is None else max_epochs * -(-len(rows) // batch_size)
    with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        made, new = _widened(model, len(known), len(added))
        _start_library_sizes(made, dataset, rows, len(known) + len(added))
        _train(made, new, dataset, rows, steps, learning_rate, batch_size, progress)
    made.data_registry = extended
    return made.eval()


def _widened(model: VAE, known: int, added: int) -> tuple[VAE, dict[str, Tensor]]:
    """Return a copy of the model with more batches, and which elements of its parameters are new (bool masks)."""
    arguments = {key: value for key, value in model.hparams.items() if key != "_class_path"}
    arguments["covariates"] = model.covariates + added
    if model.networks.likelihood.uses_size_factor:
        likelihood = arguments["likelihood"]
        arguments["likelihood"] = {**likelihood, "init_args": {**likelihood["init_args"], "gene_shift": True}}
    made = from_config({"class_path": model.hparams["_class_path"], "init_args": arguments})
    state, new = made.state_dict(), {}
    others = model.covariates - known  # the columns after the batches'
    for name, old in model.state_dict().items():
        if state[name].shape == old.shape:
            state[name] = old
            continue
        axis = next(i for i, (a, b) in enumerate(zip(state[name].shape, old.shape, strict=True)) if a != b)
        place = old.shape[axis] - others  # the covariates come last along it
        mean = old.narrow(axis, place - known, known).mean(axis, keepdim=True)
        shape = [added if i == axis else size for i, size in enumerate(old.shape)]
        parts = (old.narrow(axis, 0, place), mean.expand(shape), old.narrow(axis, place, others))
        state[name] = torch.cat(parts, axis)
        new[name] = torch.zeros(state[name].shape, dtype=torch.bool, device=old.device)
        new[name].narrow(axis, place, added).fill_(True)
    if SHIFT in state and SHIFT not in model.state_dict():  # no shifts of the known batches: they stay 0
        new[SHIFT] = torch.zeros(state[SHIFT].shape, dtype=torch.bool, device=model.device)
        new[SHIFT][known : known + added] = True
    match_precision(made, state)
    made.load_state_dict(state)
    return made.eval().to(model.device), new


@torch.no_grad()
def _start_library_sizes(model: VAE, dataset: CountDataset, rows: Tensor, batches: int) -> None:
    """Give a latent library size the moments of the new batches' log size factors."""
    assert dataset.covariates is not None  # there are batches
    batch, log_size = dataset.covariates[rows, :batches].argmax(1), dataset.size_factor[rows].log().flatten()
    for latent in model.latents.values():
        latent.init_new_batches(log_size, batch)


def _train(
    model: VAE,
    new: dict[str, Tensor],
    dataset: CountDataset,
    rows: Tensor,
    steps: int,
    learning_rate: float,
    batch_size: int,
    progress: bool,
) -> None:
    """Raise the bound, and the shifts' prior density, by the new elements alone."""
    from tqdm.auto import tqdm

    parameters = dict(model.named_parameters())
    shift = parameters.get(SHIFT)
    trained = {name: parameters[name] for name in new if name in parameters}  # a buffer is not trained
    model.requires_grad_(False)
    for parameter in trained.values():
        parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(trained.values(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    parts = itertools.islice(_shuffled(rows, batch_size), steps)
    for part in tqdm(parts, "mapping", steps, unit="step", disable=not progress):
        optimizer.zero_grad()
        loss = _bound(model, dataset.__getitems__(part).to(model.device)).mean()
        if shift is not None:
            loss = loss + (shift * new[SHIFT]).square().sum() / (2 * len(rows))
        loss.backward()
        for name, parameter in trained.items():
            assert parameter.grad is not None
            parameter.grad.mul_(new[name])  # Adam moves nothing that never had a gradient: the rest keeps its bits
        optimizer.step()
        schedule.step()
    model.requires_grad_(True)


def _bound(model: VAE, batch: Batch) -> Tensor:
    """Return the negative bound, ``[batch]``, with gradients by the model's own estimators, whatever its objective."""
    joint = model.objective.num_samples  # their rows, and their baselines', are made for as many trajectories
    return model.loss(batch, training=True, objective=ELBO(num_samples=joint)).total


def _warn_few(column: Column, added: list[str], source: str) -> None:
    """Warn of new batches of few cells."""
    sizes = {name: int((column.codes == column.categories.index(name)).sum()) for name in added}
    if few := [f"{name!r} ({size} cells)" for name, size in sizes.items() if size < FEW_CELLS]:
        warnings.warn(
            f"{source}: new batches of fewer than {FEW_CELLS} cells: {', '.join(few)}. Their effects on rarely "
            "expressed genes are uncertain, and shrink towards those of the known batches.",
            UserWarning,
            stacklevel=3,
        )


def _shuffled(rows: Tensor, batch_size: int) -> Iterator[Tensor]:
    """Yield the rows without end, in a new order each epoch, some at a time."""
    while True:
        yield from rows[torch.randperm(len(rows))].split(batch_size)
