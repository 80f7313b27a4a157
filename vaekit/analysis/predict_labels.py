"""Labels of cells, predicted by a model that was trained on the labels of some cells."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit._core.arguments import check_count
from vaekit.analysis.fields import check_free
from vaekit.analysis.label_predictor import UNKNOWN, LabelPredictor, check_label_latent, load_labeled_data
from vaekit.analysis.model_source import check_in_memory, get_count_registry, prepare_query, provenance, resolve_model
from vaekit.data.cells.query import QueryData
from vaekit.exceptions import ConfigError
from vaekit.models import VAE

if TYPE_CHECKING:
    from anndata import AnnData

COLUMNS = ("probability", "second", "uncertainty", "novelty")  # of .obs, after the label


def predict_labels(
    adata: AnnData,
    model: VAE | str | Path,
    *,
    training_data: AnnData | str | Path | Sequence[str | Path] | None = None,
    max_novelty: float | None = None,
    layer: str | None = None,
    batch_key: str | None = None,
    key_added: str | None = None,
    batch_size: int = 1024,
    progress: bool = False,
) -> None:
    r"""Label cells by a model that learned the labels of some cells.

    The probability of a label is the mean of the model's two predictors, the posterior q(y given x) and the distance to
    the prior component of each type (:func:`vaekit.analysis.label_evidence.label_evidence`), with a temperature that is
    fitted to the labeled cells of the validation and test split.

    A low probability means that two types fit. Cells of another technology or condition may have a high probability for
    the wrong type; the uncertainty then finds errors better:

    .. math:: u = 1 - p \, (1 - e^{-s / 2}), \qquad
              s = \Big(\min_{y \ne \hat y} \sqrt{D_y} - \sqrt{D_{\hat y}}\Big) \Big/ \bar\sigma^2

    with the probability p of the label :math:`\hat y`, the divergences :math:`D_y = \mathrm{KL}(q(z | x) \,\|\,
    p(z | y))`, and the mean posterior variance :math:`\bar\sigma^2`. Cells of types that no label names are far from
    all labeled cells: they have a high novelty.

    Parameters
    ----------
    adata : AnnData
        Cells to label; changed in ``.obs`` and ``.uns``.
    model : VAE or path
        Model that was trained with labels (``vaekit.fit(cells, labels=COLUMN)``), or its checkpoint. For cells of new
        batches, the model that :func:`vaekit.analysis.map_query` returns.
    training_data : AnnData, path, list of paths, or None
        Training data of the model with their labels. None: they are read from their path; of a model that was trained
        on cells in memory, ``adata`` itself.
    max_novelty : float or None
        Cells with a higher novelty are called "Unknown"; 1 calls about 5 % of the cells of known types so. None: every
        cell gets a label.
    layer, batch_key, batch_size, progress
        As in :func:`vaekit.analysis.embed`.
    key_added : str or None
        Column of ``.obs``. None means the column of the labels with the suffix ``_predicted``.

    Sets the following fields:

    ``adata.obs[key_added]``
        Most probable label, or "Unknown": a categorical.
    ``adata.obs["<key_added>_probability"]``
        Its calibrated probability.
    ``adata.obs["<key_added>_second"]``
        Second most probable label.
    ``adata.obs["<key_added>_uncertainty"]``
        Uncertainty u of the label, between 0 and 1, to rank cells.
    ``adata.obs["<key_added>_novelty"]``
        Mean distance to the five nearest labeled cells in latent space, in units of the distance that 5 % of the cells
        of known types are estimated to exceed (:func:`vaekit.analysis.label_distances.known_distance`).
    ``adata.obsm["<key_added>_probabilities"]``
        Calibrated probability of each label, ``[cells, labels]``; ``uns[key_added]["labels"]`` has their names.
    ``adata.uns[key_added]``
        Provenance, with the temperature, the number of held-out labeled cells, the expected calibration error on them,
        and the table "reliability" for :func:`vaekit.analysis.plot_reliability`.

    Warns
    -----
    UserWarning
        If no labeled cell is held out: probabilities then have a default calibration.

    Raises
    ------
    CheckpointError
        If the model was not trained on gene expression, or its training data are not available.
    ConfigError
        If the model was trained without labels, or ``max_novelty`` is not positive.
    DataError
        If the cells do not fit the model, or ``key_added`` is taken.

    Notes
    -----
    Kingma, Rezende, Mohamed and Welling (2014), Semi-supervised Learning with Deep Generative Models. Guo, Pleiss, Sun
    and Weinberger (2017), On Calibration of Modern Neural Networks.

    Examples
    --------
    >>> import vaekit
    >>> adata.obs["known"] = adata.obs["cluster"].where(adata.obs_names.isin(adata.obs_names[:150]))
    >>> labeled = vaekit.fit(adata, labels="known", max_steps=50, progress=False)
    >>> vaekit.analysis.predict_labels(adata, labeled)
    >>> sorted(name for name in adata.obs if name.startswith("known_predicted"))[:2]
    ['known_predicted', 'known_predicted_novelty']
    """
    check_in_memory(adata, "labels")
    model, checkpoint = resolve_model(model)
    key_added = prediction_key(model, key_added)
    check_prediction_fields(adata, key_added)
    check_max_novelty(max_novelty)
    check_count(batch_size=batch_size)
    query = prepare_query(model, adata, layer, batch_key)
    data = load_labeled_data(model, adata, training_data)
    predictor = LabelPredictor(model, data, batch_size, progress, query.dataset.observed)
    fields = prediction_fields(predictor, query, key_added, max_novelty, progress, checkpoint)
    for place, values in fields.items():
        for key, value in values.items():
            getattr(adata, place)[key] = value


def prediction_key(model: VAE, key_added: str | None) -> str:
    """Return the name of the predicted labels; raise an error if the model was trained without labels or cells."""
    get_count_registry(model)
    check_label_latent(model)
    if key_added is not None:
        return key_added
    labels = model.latents[str(model.label_latent)].labels
    assert labels is not None
    return f"{labels.key}_predicted"


def check_max_novelty(max_novelty: float | None) -> None:
    """Raise a ConfigError if the threshold of :func:`predict_labels` is not positive."""
    if max_novelty is not None and (not isinstance(max_novelty, int | float) or not max_novelty > 0):
        raise ConfigError(
            f"predict_labels: max_novelty={max_novelty!r} must be a positive number. 1 calls about 5 % of the cells of "
            "known types unknown."
        )


def check_prediction_fields(places: Any, key_added: str) -> None:
    """Check that the fields of :func:`predict_labels` are free in an AnnData, or in the open file of one."""
    names = {
        "obs": [key_added, *(f"{key_added}_{name}" for name in COLUMNS)],
        "obsm": [f"{key_added}_probabilities"],
    }
    check_free(places, key_added, names, key_added)


def prediction_fields(
    predictor: LabelPredictor,
    query: QueryData,
    key_added: str,
    max_novelty: float | None = None,
    progress: bool = False,
    checkpoint: str = "",
) -> dict[str, dict[str, Any]]:
    """Return the fields that :func:`predict_labels` writes, by attribute and key, for cells in memory or in a file.

    Parameters
    ----------
    predictor : LabelPredictor
        Model with its labeled cells.
    query : QueryData
        Cells to label, from :func:`vaekit.analysis.prepare_query`.
    key_added, max_novelty, progress
        As in :func:`predict_labels`.
    checkpoint : str
        Path of the checkpoint, for the provenance.
    """
    import pandas as pd

    predictions = predictor.predict(query.dataset, query.source, progress)
    names, (first, second) = list(predictor.model.label_names), predictions.order.T
    numbered = (f"{UNKNOWN} type {number}" for number in itertools.count(2))
    unknown = next(name for name in itertools.chain((UNKNOWN, f"{UNKNOWN} type"), numbered) if name not in names)
    is_unknown = np.zeros(len(first), dtype=bool) if max_novelty is None else predictions.novelty > max_novelty
    categories = [*names, unknown] if max_novelty is not None else names
    values = (
        pd.Categorical.from_codes(np.where(is_unknown, len(names), first), categories),
        predictions.probabilities.max(1),
        pd.Categorical.from_codes(second, names),
        predictions.uncertainty,
        predictions.novelty,
    )
    record = {
        "labels": np.array(names, dtype=str),
        "temperature": predictor.temperature,
        "num_held_out": predictor.num_held_out,
        "calibration_error": predictor.calibration_error,
        "reliability": predictor.reliability,
        "max_novelty": "none" if max_novelty is None else max_novelty,
        **provenance(predictor.model, query.missing_genes, checkpoint),
    }
    columns = (key_added, *(f"{key_added}_{name}" for name in COLUMNS))
    return {
        "obs": dict(zip(columns, values, strict=True)),
        "obsm": {f"{key_added}_probabilities": predictions.probabilities},
        "uns": {key_added: record},
    }
