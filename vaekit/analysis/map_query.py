"""Extension of a trained model by new batches: only the parameters of the new batches are trained."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from vaekit.analysis.batch_extension import extend_batches
from vaekit.analysis.batch_training import mean_elbo, train_elements
from vaekit.analysis.model_source import get_count_registry, open_cells, resolve_model
from vaekit.data.cells.columns import Column, match_category, read_column
from vaekit.data.cells.count_source import CountSource
from vaekit.data.cells.query import prepare_query, trained_batch_key
from vaekit.exceptions import DataError
from vaekit.models import VAE

if TYPE_CHECKING:
    from anndata import AnnData

FEW_CELLS = 100  # of a new batch
BATCH_KEY = "vaekit_batch"  # column of queries whose batches no column names
REFERENCE, QUERY = "reference", "query"  # batches of cells without a column
MIN_STEPS, MAX_STEPS, NUM_EPOCHS = 500, 2000, 5


def map_query(
    adata: AnnData | str | Path | Sequence[str | Path],
    model: VAE | str | Path,
    *,
    layer: str | None = None,
    batch_key: str | None = None,
    max_steps: int | None = None,
    max_epochs: int | None = None,
    learning_rate: float = 2e-2,
    batch_size: int = 128,
    progress: bool = False,
    seed: int = 0,
) -> VAE:
    r"""Extend a trained model by the batches of new cells.

    Every parameter that depends on the batch gets new elements for each new batch: columns of the covariates in encoder
    and decoder, and dispersions by batch. A count likelihood also gets a shift of each gene in each new batch
    (``gene_shift``), because a decoder can only express effects that it has learned. A latent library size gets the
    mean and standard deviation of the new batches. Only the new elements :math:`\theta` are trained, on the cells of
    the new batches, to maximize

    .. math:: \sum_i \mathrm{ELBO}(x_i) + \sum_k \log N(\theta_k; m_k, s^2)

    with the mean :math:`m_k` over the known batches, where the training starts, and the root :math:`s` of the mean
    variance between them for each parameter. For the shifts (natural logarithms) s is at least 0.5, because similar
    batches do not exclude a different one. With fewer than two known batches, s is 0.5 for shifts and 0.1 for columns.
    All other weights keep their bits, and the results for known cells change by rounding errors only. If the encoder
    does not see the covariates, new cells keep their place in latent space.

    A model that was trained without batches gets one for its training cells, ``"reference"``. From then on, cells
    without a batch column count as reference cells.

    Parameters
    ----------
    adata : AnnData, path, or list of paths
        New cells, some of them from new batches, or their files. Only the ``.obs`` of an AnnData
        without a batch column changes, as below.
    model : VAE or path
        Trained model, or its checkpoint; not changed.
    layer, progress
        As in :func:`vaekit.analysis.embed`.
    batch_key : str, optional
        Column of ``.obs`` with the batch. None means the column of the training data. If the model was trained without
        batches, and the cells do not have the column ``vaekit_batch``, they are one batch, ``"query"``.
    max_steps : int, optional
        Number of training steps. None means five epochs, but at least 500 and at most 2,000 steps.
    max_epochs : int, optional
        Number of passes over the cells of new batches, instead of ``max_steps``.
    learning_rate : float
        Initial learning rate of Adam; it decays to 0 by a cosine schedule.
    batch_size : int
        Largest number of cells per mini-batch; fewer cells are one mini-batch.
    seed : int
        Seed of the samples and of the order of cells.

    Returns
    -------
    VAE
        New model in evaluation mode with the old and the new batches, for all functions of ``vaekit.analysis`` and
        for :func:`vaekit.save`. The last entry of ``data_registry["mappings"]`` is a summary: the source, the batch
        column, the number of cells of each new batch, the number of steps, and the mean ELBO of these cells before and
        after the training, in nats per cell.

    Sets the following field, if the model has no batch column and the cells are an AnnData without one:

    ``adata.obs["vaekit_batch"]``
        ``"query"``, so that other functions find the batch. A file does not change: pass ``batch_key="query"`` for it.

    Warns
    -----
    UserWarning
        If a new batch has fewer than 100 cells: its effect is uncertain.

    Raises
    ------
    CheckpointError
        If the model was trained on images.
    DataError
        If all batches are known, the cells are the training data, the genes do not fit the model, or a number is
        invalid.

    Notes
    -----
    A difference that all new cells share is attributed to their batch. Therefore new cells should be of several types,
    some of them in the training data. With a single type, the effects of type and batch cannot be separated.

    Lotfollahi et al. (2022), Mapping single-cell data to reference atlases by transfer learning.

    Examples
    --------
    >>> import vaekit
    >>> adata.obs["batch"] = "another"  # a batch that the model does not know
    >>> mapped = vaekit.analysis.map_query(adata, model, max_steps=2)
    >>> vaekit.analysis.get_data_registry(mapped)["batch_categories"]
    ['batch0', 'batch1', 'another']
    >>> vaekit.analysis.embed(adata, mapped)
    []
    """
    _check_numbers(max_steps, max_epochs, batch_size, learning_rate)
    model, _ = resolve_model(model)
    registry = get_count_registry(model)
    cells = open_cells(model, adata, layer, backed=False)  # mini-batches are random
    new = _find_new_batches(cells, registry, batch_key)
    known_batches = list(registry["batch_categories"])
    if not known_batches or "default_batch" in registry:  # otherwise the names of their batches are known
        _check_not_trained_on(cells.round_counts(registry["round_counts"]), registry)
    known = known_batches or [_free_name(REFERENCE, new.names)]
    extended = {**registry, "batch_categories": [*known, *new.names], "mappings": registry.get("mappings", [])}
    if not known_batches:
        extended |= {"default_batch": known[0], "query_batch_key": new.key}
    dataset = prepare_query(cells, extended, new.column).dataset
    _warn_few(new, cells.name)
    index = torch.from_numpy(np.flatnonzero(np.isin(new.batch, new.names)))
    epoch = -(-len(index) // batch_size)
    num_steps = max_steps or min(max(NUM_EPOCHS * epoch, MIN_STEPS), MAX_STEPS)
    num_steps = num_steps if max_epochs is None else max_epochs * epoch
    with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        mapped, elements = extend_batches(model, len(known_batches), len(new.names))
        assert dataset.covariates is not None  # the batches are covariates
        batch = dataset.covariates[index, : len(extended["batch_categories"])].argmax(1)
        for latent in mapped.latents.values():
            latent.init_new_batches(dataset.size_factor[index].log().flatten().to(mapped.device), batch)
        before = mean_elbo(mapped, dataset, index)
        train_elements(mapped, elements, dataset, index, num_steps, batch_size, learning_rate, progress)
    is_adata = not isinstance(adata, str | Path | Sequence)
    if is_adata and new.column != new.key:
        adata.obs[new.key] = new.column  # type: ignore[union-attr]
    mapping = {
        "source": cells.name,
        "batch_key": new.key if is_adata or new.column == new.key else None,
        "batches": new.sizes,
        "num_cells": len(index),
        "num_steps": num_steps,
        "missing_genes": int(len(dataset.observed) - dataset.observed.sum()) if dataset.observed is not None else 0,
        "elbo_before": before,
        "elbo_after": mean_elbo(mapped, dataset, index),
    }
    mapped.data_registry = {**extended, "mappings": [*extended["mappings"], mapping]}
    return mapped.eval()


class _NewBatches(NamedTuple):
    """New batches of cells.

    ``key`` is the column of cells that are marked, and ``column`` the argument ``batch_key`` for these cells: the same
    column, or the name of their only batch. ``batch`` contains the batch of each cell.
    """

    names: list[str]
    key: str
    column: str
    batch: np.ndarray

    @property
    def sizes(self) -> dict[str, int]:
        """Number of cells of each new batch."""
        return {name: int((self.batch == name).sum()) for name in self.names}


def _check_numbers(max_steps: int | None, max_epochs: int | None, batch_size: int, learning_rate: float) -> None:
    for name, value in (("max_steps", max_steps), ("max_epochs", max_epochs), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise DataError(f"map_query: {name}={value} must be at least 1.")
    if max_steps is not None and max_epochs is not None:
        raise DataError(f"map_query: max_steps={max_steps} and max_epochs={max_epochs} exclude each other. Pass one.")
    if not learning_rate > 0:
        raise DataError(f"map_query: learning_rate={learning_rate} must be positive.")


def _find_new_batches(cells: CountSource, registry: Mapping[str, Any], batch_key: str | None) -> _NewBatches:
    """Return the batches that the model does not know; raise a DataError without any."""
    known, obs = list(registry["batch_categories"]), cells.obs
    key = batch_key or trained_batch_key(registry) or BATCH_KEY
    is_unmarked = batch_key is None and key not in obs.columns
    if is_unmarked and (not known or "default_batch" in registry):
        name = _free_name(QUERY, [*known, *map(str, obs.columns)])
        return _NewBatches([name], key, name, np.full(len(cells), name, dtype=object))
    column = read_column(obs, key, "batch_key", cells.name)
    matched = Column(column.codes, [match_category(name, known) for name in column.categories])
    names = [name for name in matched.categories if name not in known]
    if not names:
        raise DataError(
            f"batch_key={key!r}: the model knows all batches of {cells.name}: {', '.join(map(repr, known))}. "
            "Use vaekit.analysis.embed for these cells."
        )
    return _NewBatches(names, key, key, matched.names())


def _free_name(name: str, taken: Sequence[str]) -> str:
    """Return a name, with a number if it is taken."""
    candidates = (name, *(f"{name}{number}" for number in range(2, len(taken) + 3)))
    return next(each for each in candidates if each not in taken)


def _check_not_trained_on(cells: CountSource, registry: Mapping[str, Any]) -> None:
    """Raise a DataError if the cells are the training data."""
    if cells.fingerprint()[0] == registry["fingerprint"]:
        raise DataError(
            f"map_query: {cells.name} has the counts and names that the model was trained on. Pass new cells, or use "
            "vaekit.analysis.embed for these."
        )


def _warn_few(new: _NewBatches, source: str) -> None:
    if few := [f"{name!r} ({size} cells)" for name, size in new.sizes.items() if size < FEW_CELLS]:
        warnings.warn(
            f"{source}: new batches have fewer than {FEW_CELLS} cells: {', '.join(few)}. Their effects on rarely "
            "expressed genes are uncertain and shrink towards those of the known batches.",
            UserWarning,
            stacklevel=3,
        )
