"""Predictor of labels: a model and the labeled cells of its data, which calibrate probabilities and distances."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vaekit.analysis.label_calibration import (
    expected_calibration_error,
    fit_temperature,
    reliability_table,
    temper,
)
from vaekit.analysis.label_distances import LabelDistances
from vaekit.analysis.label_evidence import LabelEvidence, label_evidence
from vaekit.analysis.training_data import load_training_data
from vaekit.batch import Batch
from vaekit.data.dataset import BatchDataset, RowSubset, sequential_loader
from vaekit.exceptions import CheckpointError, ConfigError
from vaekit.models import VAE

if TYPE_CHECKING:
    import pandas as pd

    from vaekit.data.data_module import DataModule

SEPARATION_SCALE = 2.0  # separation at which exp(-s / scale) is a third: see Predictions.uncertainty
UNKNOWN = "Unknown"


class Predictions(NamedTuple):
    """Labels of cells.

    Attributes
    ----------
    probabilities : ndarray, shape (cells, labels)
        Calibrated probability of each label.
    uncertainty : ndarray, shape (cells,)
        1 - p (1 - exp(-s / 2)) with the probability p and the separation s of the most probable label.
    novelty : ndarray, shape (cells,)
        Mean distance to the five nearest labeled cells, in units of the distance that 5 % of the cells of known types
        are estimated to exceed (:class:`vaekit.analysis.label_distances.LabelDistances`).
    """

    probabilities: np.ndarray
    uncertainty: np.ndarray
    novelty: np.ndarray

    @property
    def order(self) -> np.ndarray:
        """Indices of the most probable and the second most probable label, shape (cells, 2)."""
        return np.argsort(-self.probabilities, axis=1, kind="stable")[:, :2]


class LabelPredictor:
    """Predictor of labels from a model with a label latent and its training data.

    The labeled cells of the validation and test split are held out: training does not use their labels. They determine
    the temperature of the probabilities. All labeled cells determine the distances.

    Parameters
    ----------
    model : VAE
        Trained model with a label latent.
    data : DataModule
        Its training data with their split.
    batch_size : int
        Cells per mini-batch.
    progress : bool
        Whether to show a progress bar.
    observed : Tensor or None, shape (genes,)
        Genes of the cells to label, bool; None: all. The labeled cells are seen through the same genes, because the
        latents of cells with fewer genes are less certain, and farther from the others.

    Attributes
    ----------
    temperature : float
        Temperature of the probabilities.
    training_codes, held_out_codes : ndarray of int
        Labels of the labeled cells of the training split, and of the held-out ones.
    is_right : ndarray of bool
        Whether each held-out labeled cell has its label as the most probable one.
    reliability : DataFrame
        Fraction of right labels per interval of their calibrated probability, on the held-out labeled cells
        (:func:`vaekit.analysis.label_calibration.reliability_table`).

    Raises
    ------
    ConfigError
        If the model does not have a label latent.
    CheckpointError
        If none of the training cells has a label, or the labels are others than in training.
    """

    def __init__(
        self,
        model: VAE,
        data: DataModule,
        batch_size: int = 1024,
        progress: bool = False,
        observed: Tensor | None = None,
    ) -> None:
        check_label_latent(model)
        codes = data.observed_labels
        assert codes is not None  # the model was trained on labels of these data
        if have_labels_changed(model, data):
            key = next(iter(data.observed_categories))
            raise CheckpointError(
                f"observed_key={key!r}: the labels of {data.source} are not those of the training of the model, which "
                "calibrate the predictions. Restore the column, and store predictions in another one. Or pass "
                "training_data=..., an AnnData or a file with the labels of the training."
            )
        rows = np.flatnonzero(codes >= 0)
        is_training = np.isin(rows, data.split_indices["train"].numpy())
        if not is_training.any():
            raise CheckpointError(
                "The training data have no labeled cells. Pass the data that the model was trained on."
            )
        self.model, self.batch_size = model, batch_size
        labeled = RowSubset(data.dataset, torch.from_numpy(rows))
        evidence = self._evidence(labeled, "labeled cells", progress, observed)
        codes, held_out = codes[rows], ~is_training
        self.training_codes, self.held_out_codes = codes[is_training], codes[held_out]
        if not self.num_held_out:
            warnings.warn(
                "All labeled cells are in the training split, so the probabilities of labels have a default "
                "calibration. Keep labeled cells in the validation or test split (split of the data).",
                UserWarning,
                stacklevel=3,
            )
        self.temperature = fit_temperature(evidence.probabilities[held_out], self.held_out_codes)
        probabilities = temper(evidence.probabilities[held_out], self.temperature)
        self.is_right = probabilities.argmax(1) == self.held_out_codes
        self.reliability: pd.DataFrame = reliability_table(probabilities.max(1), self.is_right)
        self._distances = LabelDistances(evidence.points)

    @property
    def num_training(self) -> int:
        """Number of labeled cells of the training split."""
        return len(self.training_codes)

    @property
    def num_held_out(self) -> int:
        """Number of held-out labeled cells."""
        return len(self.held_out_codes)

    @property
    def calibration_error(self) -> float:
        """Expected calibration error on the held-out labeled cells; 0 without any."""
        return expected_calibration_error(self.reliability)

    def predict(self, dataset: BatchDataset, description: str, progress: bool = False) -> Predictions:
        """Return the labels of cells.

        Parameters
        ----------
        dataset : BatchDataset
            Cells in the form of the training data.
        description : str
            Name of the cells in the progress bar.
        progress : bool
            Whether to show a progress bar.
        """
        evidence = self._evidence(dataset, description, progress)
        probabilities = temper(evidence.probabilities, self.temperature)
        uncertainty = 1 - probabilities.max(1) * (1 - np.exp(-evidence.separation / SEPARATION_SCALE))
        return Predictions(probabilities, uncertainty, self._distances.novelty(evidence.points))

    def _evidence(
        self, dataset: BatchDataset, description: str, progress: bool, observed: Tensor | None = None
    ) -> LabelEvidence:
        from tqdm.auto import tqdm

        loader = sequential_loader(dataset, self.batch_size)
        bar = tqdm(loader, desc=f"labels of {description}", unit="batch", disable=not progress)
        return label_evidence(self.model, bar if observed is None else (_hide_genes(batch, observed) for batch in bar))


def _hide_genes(batch: Batch, observed: Tensor) -> Batch:
    """Return cells as if only some genes had been measured."""
    return batch._replace(x=batch.x * observed, nonzero=None, observed=observed.expand_as(batch.x))


def check_label_latent(model: VAE) -> None:
    """Raise a ConfigError if a model does not have a label latent.

    Examples
    --------
    >>> check_label_latent(model)
    Traceback (most recent call last):
    vaekit.exceptions.ConfigError: model has no labels: none of its latents has an observed_key. Train one with ...
    """
    if model.label_latent is None:
        raise ConfigError(
            "model has no labels: none of its latents has an observed_key. Train one with "
            "vaekit.fit(cells, labels=COLUMN), or transfer labels of neighbors with vaekit.analysis.transfer_labels."
        )


def have_labels_changed(model: VAE, data: DataModule) -> bool:
    """Return whether a model was trained on other labels of these data."""
    trained = (model.data_registry or {}).get("label_fingerprint")
    return trained is not None and trained != data.label_fingerprint


def load_labeled_data(model: VAE, cells: Any, training_data: Any = None) -> DataModule:
    """Return the training data of a model with labels: ``training_data``, the file of the training, or ``cells``.

    Parameters
    ----------
    model : VAE
        Trained model.
    cells : AnnData, path, or list of paths
        Cells to label, which may be the training data themselves.
    training_data : AnnData, path, list of paths, or None
        Training data in memory or at another path.

    Raises
    ------
    CheckpointError
        If the training data are not available, or ``training_data`` are other cells.
    """
    try:
        return load_training_data(model, cells=training_data)
    except CheckpointError as error:
        if training_data is not None:
            raise
        reason = error.__cause__ or error
    try:
        return load_training_data(model, cells=cells)
    except CheckpointError as error:
        if (model.data_registry or {}).get("in_memory"):
            reason = error.__cause__ or error
        raise CheckpointError(
            "The labels are calibrated on the labeled training cells, which are needed as they were in training. Pass "
            "training_data=..., an AnnData or the path of a file with the same cells, genes and labels in the same "
            f"order. ({reason})"
        ) from error
