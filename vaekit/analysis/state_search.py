"""Search for states: from the posteriors of cells under several models to states, their tree and markers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit.analysis.model_source import get_count_registry
from vaekit.analysis.state_agreement import choose_num_states, mean_pairwise_ari, state_stability
from vaekit.analysis.state_markers import component_compositions, level_markers
from vaekit.analysis.state_mixture import StateMixture, select_mixture
from vaekit.analysis.state_posteriors import confusion_matrix, read_posteriors
from vaekit.analysis.state_tables import (
    States,
    agreement_table,
    bic_table,
    composition_table,
    state_table,
    to_categorical,
    tree_table,
)
from vaekit.analysis.state_tree import StateTree, merge_states
from vaekit.data.cells.query import QueryData
from vaekit.exceptions import DataError
from vaekit.models import VAE

if TYPE_CHECKING:
    import pandas as pd

MIN_CELLS = 20  # fewer do not determine a mixture
MAX_FITTED_CELLS = 20_000  # the mixture does not change with more, which take minutes
MAX_COMPONENTS = 30
MIN_AGREEMENT = 0.97  # adjusted Rand index; below it, the models split some types at different places


def find_states(
    queries: Sequence[QueryData],
    models: Sequence[VAE],
    num_states: int | None = None,
    n_genes: int = 20,
    batch_size: int = 1024,
    progress: bool = False,
    seed: int = 0,
) -> States:
    """Find states as :func:`vaekit.analysis.states` does, for cells in memory or in files.

    Parameters
    ----------
    queries : sequence of QueryData
        The same cells in the form of each model.
    models : sequence of VAE
        Models of the same data.
    num_states, n_genes, batch_size, progress, seed
        As in :func:`vaekit.analysis.states`.

    Raises
    ------
    CheckpointError
        If a model does not have an active dimension.
    DataError
        If there are too few cells, or fewer components than ``num_states``.
    """
    num_cells = len(queries[0].dataset)
    if num_cells < MIN_CELLS:
        raise DataError(f"{queries[0].source}: {num_cells} cells are too few for states. Pass at least {MIN_CELLS}.")
    cells = read_posteriors(models, queries, batch_size, seed, progress)
    fitted = np.argsort(cells.keys, kind="stable")[:MAX_FITTED_CELLS]  # an order that follows from the cells
    part = cells.select(fitted)
    mixture, criteria = select_mixture(part.posteriors, min(MAX_COMPONENTS, num_cells // 2), progress)
    tree = merge_states(confusion_matrix(mixture, part, progress))
    scores = mixture.scores(cells.posteriors)
    components, by_model = mixture.probabilities(scores), mixture.probabilities_by_model(scores)
    agreement = agreement_curve(tree, by_model)
    chosen = _choose(tree, agreement, num_states)
    membership = tree.membership(chosen)
    probabilities, codes_by_model = components @ membership, (by_model @ membership).argmax(-1)
    codes = probabilities.argmax(1)
    closest = int(np.argmax([mean_pairwise_ari([codes, other]) for other in codes_by_model]))
    others = codes_by_model if len(models) > 1 else []
    compositions = component_compositions(
        models[closest], queries[closest].dataset, fitted, part.keys, components[fitted], batch_size, progress
    )
    genes = get_count_registry(models[closest])["feature_names"]
    return States(
        codes=to_categorical(codes, chosen),
        probabilities=probabilities,
        states=state_table(tree, codes, probabilities, state_stability(codes, others, chosen)),
        tree=tree_table(tree),
        agreement=agreement_table(agreement, chosen),
        bic=bic_table(criteria),
        markers=level_markers(tree, compositions, genes, n_genes),
        compositions=composition_table(tree, compositions, genes, chosen),
        latents=cells.latents[closest],
        reference=_to_plain_data(mixture, cells.dimensions, membership),
    )


def agreement_curve(tree: StateTree, by_model: np.ndarray) -> list[float]:
    """Return the mean pairwise adjusted Rand index of the models' own states at 1, 2, ... states.

    Parameters
    ----------
    tree : StateTree
        Tree of the components.
    by_model : ndarray, shape (models, cells, components)
        Probabilities of the components from each model alone.
    """
    levels = range(1, tree.num_components + 1)
    return [mean_pairwise_ari((by_model @ tree.membership(level)).argmax(-1)) for level in levels]


def assign(
    queries: Sequence[QueryData],
    models: Sequence[VAE],
    reference: Mapping[str, Any],
    batch_size: int,
    progress: bool,
) -> tuple[pd.Categorical, np.ndarray]:
    """Return the states of cells and their probabilities ``[cells, states]``, for the ``reference`` of other states."""
    names = [str(number) for number in range(len(models))]
    means, variances = (tuple(np.asarray(reference[key][name]) for name in names) for key in ("means", "variances"))
    mixture = StateMixture(np.asarray(reference["weights"]), means, variances)
    dimensions = [np.asarray(reference["dimensions"][name]) for name in names]
    cells = read_posteriors(models, queries, batch_size, 0, progress, dimensions)
    probabilities = mixture.probabilities(mixture.scores(cells.posteriors)) @ np.asarray(reference["membership"])
    return to_categorical(probabilities.argmax(1), probabilities.shape[1]), probabilities


def _choose(tree: StateTree, agreement: Sequence[float], num_states: int | None) -> int:
    """Return the number of states: the given one, or the largest at which the models agree."""
    if num_states is not None:
        if num_states > tree.num_components:
            raise DataError(
                f"num_states={num_states} must be at most {tree.num_components}, the number of components with the "
                "lowest BIC."
            )
        return num_states
    if np.isnan(agreement).all():  # a single model
        return tree.num_components
    return choose_num_states(dict(enumerate(agreement, 1)), MIN_AGREEMENT)


def _to_plain_data(mixture: StateMixture, dimensions: Sequence[np.ndarray], membership: np.ndarray) -> dict[str, Any]:
    """Return a mixture and its states as arrays and mappings, which .h5ad files can contain."""
    by_model = {"means": mixture.means, "variances": mixture.variances, "dimensions": dimensions}
    parts = {key: {str(number): value for number, value in enumerate(values)} for key, values in by_model.items()}
    return {"weights": mixture.weights, "membership": membership, **parts}
