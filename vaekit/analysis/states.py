"""States of cells on which several models agree, written into an AnnData."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit.analysis.fields import check_free
from vaekit.analysis.model_source import check_in_memory, get_count_registry, prepare_query, provenance, resolve_model
from vaekit.analysis.state_posteriors import normal_latents
from vaekit.analysis.state_search import find_states
from vaekit.analysis.state_tables import States
from vaekit.exceptions import CheckpointError, DataError
from vaekit.models import VAE

if TYPE_CHECKING:
    from anndata import AnnData

    from vaekit.data.cells.query import QueryData

Models = VAE | str | Path | Sequence[VAE | str | Path]
DOUBTFUL = 0.6  # stability below which a state is doubtful: Hennig (2007)


def states(
    adata: AnnData,
    models: Models,
    *,
    num_states: int | None = None,
    n_genes: int = 20,
    layer: str | None = None,
    batch_key: str | None = None,
    key_added: str = "vaekit_states",
    batch_size: int = 1024,
    progress: bool = False,
    seed: int = 0,
) -> States:
    r"""Find the states of cells on which models that were trained with different seeds agree.

    1. A mixture of normals is fitted by EM to the posteriors of all R models, whose networks do not change. A component
       has a mean and a variance in the latent space of each model, and the evidence of the models is averaged:

       .. math:: r_{ik} \propto \pi_k \exp\Big(\frac{1}{R} \sum_s
                 E_{q_s(z | x_i)}[\log N(z; m_{ks}, S_{ks})]\Big)

       The number of components is the one with the lowest BIC.
    2. A tree merges the two states with the largest probability of misclassification, until one is left.
    3. Each model alone assigns its cells to the components, too. The number of states is the largest one at which the
       models agree: a mean adjusted Rand index of at least 0.97 over all pairs of models.

    For a single model, agreement is unknown: all components are states, and a warning says so.

    Parameters
    ----------
    adata : AnnData
        Cells with counts; changed as below.
    models : VAE or path, or sequence of these
        Models of the same data with a Gaussian latent, trained with different seeds (at least three), or their
        checkpoints.
    num_states : int or None
        Number of states. None: the largest one at which the models agree.
    n_genes : int
        Number of marker genes per state.
    layer, batch_key, batch_size, progress
        As in :func:`vaekit.analysis.embed`.
    key_added : str
        Name in ``.obs``, ``.obsm`` and ``.uns``.
    seed : int
        Seed of the samples of the latents, and of the choice of 20,000 cells if there are more.

    Returns
    -------
    States
        The states of the cells, with their tree, agreement, stability and markers.

    Sets the following fields, for the ``key_added`` ``vaekit_states``:

    ``adata.obs["vaekit_states"]``
        State of each cell, a categorical ``"0"``, ``"1"``, ... by decreasing weight.
    ``adata.obsm["vaekit_states_probabilities"]``
        Probabilities of the states.
    ``adata.uns["vaekit_states"]``
        The tables of :class:`States`, the mixture for :func:`assign_states`, and the provenance.

    Warns
    -----
    UserWarning
        If a state is not stable, or if its stability is unknown because there is a single model.

    Raises
    ------
    CheckpointError
        If a model was not trained on gene expression, does not have a Gaussian latent with an active dimension, or was
        trained on other data than the first.
    DataError
        If the cells do not fit the models, there are fewer than 20, a number is invalid, or a field is taken.

    Notes
    -----
    Hennig (2010), Methods for merging Gaussian mixture components; Hennig (2007), Cluster-wise assessment of cluster
    stability; Strehl and Ghosh (2002), Cluster ensembles: a knowledge reuse framework for combining multiple
    partitions.

    Examples
    --------
    >>> import vaekit
    >>> found = vaekit.analysis.states(adata, models)  # three models with different seeds
    >>> found.agreement[["num_states", "chosen"]].to_numpy().tolist()
    [[1, False], [2, True]]
    >>> adata.obs["vaekit_states"].value_counts().tolist()
    [197, 103]
    """
    check_in_memory(adata, "states")
    loaded, checkpoints = load_models(models)
    check_numbers(num_states, n_genes, batch_size)
    check_state_fields(adata, key_added)
    queries = [prepare_query(model, adata, layer, batch_key) for model in loaded]
    found = find_states(queries, loaded, num_states, n_genes, batch_size, progress, seed)
    warn_unstable(found)
    fields = {**found.fields(key_added), "uns": {key_added: state_provenance(found, queries, loaded, checkpoints)}}
    for place, values in fields.items():
        for key, value in values.items():
            getattr(adata, place)[key] = value
    return found


def load_models(models: Models) -> tuple[list[VAE], list[str]]:
    """Return models of the same data, and the paths of their checkpoints ("" without one).

    Raises
    ------
    CheckpointError
        If one cannot be loaded, was trained on other data than the first, or does not have a Gaussian latent.
    DataError
        If there is no model, or one twice.
    """
    given = list(models) if isinstance(models, Sequence) and not isinstance(models, str) else [models]
    if not given:
        raise DataError("states: models=[] must contain a model. Pass models of several seeds, three or more.")
    loaded, checkpoints = map(list, zip(*map(resolve_model, given), strict=True))
    for number, (model, checkpoint) in enumerate(zip(loaded, checkpoints, strict=True)):
        name = checkpoint or f"models[{number}]"
        _check_model(model, name, loaded[0], checkpoints[0] or "models[0]")
        if any(_same_weights(model, other) for other in loaded[:number]):
            raise DataError(
                f"{name} has the same weights as another model, so that the two agree by construction. Pass models of "
                "different seeds: vaekit fit --seeds 3 trains three."
            )
    return loaded, checkpoints


def _check_model(model: VAE, name: str, first: VAE, first_name: str) -> None:
    """Raise a CheckpointError if a model does not have a normal latent, or was trained on other data than the first."""
    registry, expected = get_count_registry(model), get_count_registry(first)
    if not normal_latents(model):
        kinds = ", ".join(f"{key} ({type(latent).__name__})" for key, latent in model.latents.items())
        raise CheckpointError(
            f"{name} does not have a Gaussian latent, but {kinds}. Train a GaussianVAE or a MixedVAE with a Gaussian."
        )
    if list(registry["feature_names"]) != list(expected["feature_names"]):
        raise CheckpointError(f"{name} has other genes than {first_name}. Pass models of the same data.")
    if registry["fingerprint"] != expected["fingerprint"]:
        raise CheckpointError(
            f"{name} was trained on other data ({registry['source']}) than {first_name} ({expected['source']}). Pass "
            "models of the same data."
        )


def _same_weights(model: VAE, other: VAE) -> bool:
    pairs = zip(model.parameters(), other.parameters(), strict=False)
    return all(a.shape == b.shape and bool((a.cpu() == b.cpu()).all()) for a, b in pairs)


def check_numbers(num_states: int | None, n_genes: int, batch_size: int) -> None:
    """Raise a DataError if a number is below 1."""
    numbers = {"num_states": 1 if num_states is None else num_states, "n_genes": n_genes, "batch_size": batch_size}
    for name, value in numbers.items():
        if value < 1:
            raise DataError(f"states: {name}={value} must be at least 1.")


def check_state_fields(places: Any, key_added: str) -> None:
    """Check that the fields of :func:`states` are free in an AnnData, or in the open file of one."""
    check_free(places, key_added, {"obs": [key_added], "obsm": [f"{key_added}_probabilities"]}, key_added)


def state_provenance(
    found: States, queries: Sequence[QueryData], models: Sequence[VAE], checkpoints: Sequence[str]
) -> dict[str, Any]:
    """Return the tables, the mixture and the origin of states as plain data for ``.uns``."""
    origin = provenance(models[0], queries[0].missing_genes, checkpoints[0])
    return {**origin, "checkpoints": np.array(checkpoints, dtype=str), **found.tables(), "reference": found.reference}


def warn_unstable(found: States) -> None:
    """Warn about states that are not stable, or whose stability is unknown."""
    stability = found.states["stability"]
    if stability.isna().all():
        warnings.warn(
            "states: their stability is unknown with a single model. Pass models of several seeds: vaekit fit --seeds "
            "3 trains three.",
            UserWarning,
            stacklevel=3,
        )
    elif (stability < DOUBTFUL).any():
        listed = ", ".join(f"{state} ({value:.2f})" for state, value in stability[stability < DOUBTFUL].items())
        warnings.warn(
            f"states: not stable over the models (Jaccard index below {DOUBTFUL}): {listed}. Do not interpret them "
            f"alone: pass num_states={max(1, len(stability) - 1)} or fewer, or models that were trained for longer.",
            UserWarning,
            stacklevel=3,
        )


def assign_states(
    adata: AnnData,
    models: Models,
    reference: Mapping[str, Any],
    *,
    layer: str | None = None,
    batch_key: str | None = None,
    key_added: str = "vaekit_states",
    batch_size: int = 1024,
    progress: bool = False,
) -> None:
    """Assign new cells to states that :func:`states` found in others.

    Parameters
    ----------
    adata : AnnData
        New cells with counts. For cells of new batches, pass mapped models (:func:`vaekit.analysis.map_query`).
    models : VAE or path, or sequence of these
        The models of the states, in the same order.
    reference : mapping
        ``.uns["vaekit_states"]`` of the cells with the states.
    layer, batch_key, key_added, batch_size, progress
        As in :func:`states`, which describes the fields of ``.obs`` and ``.obsm``.

    Raises
    ------
    CheckpointError
        If the models are not those of the states.
    DataError
        If the cells do not fit the models, or a field is taken.

    Examples
    --------
    >>> import vaekit
    >>> known, new = adata[:200].copy(), adata[200:].copy()
    >>> found = vaekit.analysis.states(known, models)
    >>> vaekit.analysis.assign_states(new, models, known.uns["vaekit_states"])
    >>> sorted(new.obs["vaekit_states"].unique())
    ['0', '1']
    """
    from vaekit.analysis.state_search import assign

    check_in_memory(adata)
    loaded, checkpoints = load_models(models)
    check_numbers(None, 1, batch_size)
    check_state_fields(adata, key_added)
    fingerprint = str(get_count_registry(loaded[0])["fingerprint"])
    if "reference" not in reference or len(reference["checkpoints"]) != len(loaded):
        raise DataError(
            "assign_states: reference must be .uns['vaekit_states'] of cells whose states these models define. Pass "
            "the same models in the same order."
        )
    if reference["training_fingerprint"] != fingerprint:
        raise CheckpointError("assign_states: the models were trained on other data than those of reference.")
    queries = [prepare_query(model, adata, layer, batch_key) for model in loaded]
    codes, probabilities = assign(queries, loaded, reference["reference"], batch_size, progress)
    adata.obs[key_added] = codes
    adata.obsm[f"{key_added}_probabilities"] = probabilities
    adata.uns[key_added] = {
        **provenance(loaded[0], queries[0].missing_genes, checkpoints[0]),
        "checkpoints": np.array(checkpoints, dtype=str),
        "reference": reference["reference"],
    }
