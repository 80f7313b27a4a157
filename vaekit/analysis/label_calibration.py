"""Calibration of the probabilities of labels on held-out labeled cells: temperature and reliability."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

LOG_TEMPERATURE, LOG_TEMPERATURE_SD = -0.3, 0.3  # normal prior, from other draws of labels than the published tables
NUM_BINS = 10
SMALLEST = 1e-12  # probability whose logarithm is finite


def temper(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Return normalized ``probabilities ** (1 / temperature)``, shape (cells, labels).

    Examples
    --------
    >>> temper(np.array([[0.8, 0.2]]), 0.5).round(2).tolist()
    [[0.94, 0.06]]
    """
    logits = np.log(np.maximum(probabilities, SMALLEST)) / temperature
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


def fit_temperature(probabilities: np.ndarray, codes: np.ndarray) -> float:
    r"""Return the temperature T that maximizes the posterior density given the labels of held-out cells.

    .. math:: \sum_i \log \mathrm{softmax}(\log p_i / T)_{y_i}
              - \frac{(\log T + 0.3)^2}{2 \cdot 0.3^2}

    A model that learned of few labels is underconfident, so the prior prefers a temperature below 1. Without held-out
    cells it is exp(-0.3).

    Parameters
    ----------
    probabilities : ndarray, shape (cells, labels)
        Probabilities of the model.
    codes : ndarray of int, shape (cells,)
        Label of each cell.

    Notes
    -----
    Guo, Pleiss, Sun and Weinberger (2017), On Calibration of Modern Neural Networks.

    Examples
    --------
    >>> probabilities = np.array([[0.7, 0.3]] * 100)
    >>> fit_temperature(probabilities, np.zeros(100, int)) < 0.7  # always right: underconfident
    True
    >>> round(fit_temperature(probabilities[:0], np.zeros(0, int)), 2)
    0.74
    """
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        tempered = temper(probabilities, np.exp(log_temperature))[np.arange(len(codes)), codes]
        prior = (log_temperature - LOG_TEMPERATURE) ** 2 / (2 * LOG_TEMPERATURE_SD**2)
        return float(prior - np.log(np.maximum(tempered, SMALLEST)).sum())

    return float(np.exp(minimize_scalar(loss, bounds=(-2.0, 2.0), method="bounded").x))


def reliability_table(probability: np.ndarray, is_right: np.ndarray) -> pd.DataFrame:
    """Return the fraction of right labels per interval of their probability.

    Parameters
    ----------
    probability : ndarray, shape (cells,)
        Probability of the predicted label of each cell.
    is_right : ndarray of bool, shape (cells,)
        Whether it is the known label.

    Returns
    -------
    DataFrame
        A row per interval of width 0.1 with cells: ``probability`` (mean), ``accuracy`` (fraction of right labels) and
        ``n`` (number of cells).

    Examples
    --------
    >>> table = reliability_table(np.array([0.95, 0.97, 0.55]), np.array([True, False, True]))
    >>> table["accuracy"].tolist(), table["n"].tolist()
    ([1.0, 0.5], [1, 2])
    """
    import pandas as pd

    bins = np.minimum((probability * NUM_BINS).astype(int), NUM_BINS - 1)
    cells = pd.DataFrame({"bin": bins, "probability": probability, "accuracy": is_right.astype(float)})
    groups = cells.groupby("bin")
    return groups.mean().assign(n=groups.size()).reset_index(drop=True)


def expected_calibration_error(table: pd.DataFrame) -> float:
    r"""Return :math:`\sum_b n_b\, |\mathrm{accuracy}_b - \mathrm{probability}_b| / \sum_b n_b` of a reliability table.

    Examples
    --------
    >>> table = reliability_table(np.array([0.9, 0.9]), np.array([True, False]))
    >>> round(expected_calibration_error(table), 2)
    0.4
    """
    gap = (table["accuracy"] - table["probability"]).abs()
    return float((gap * table["n"]).sum() / max(1, table["n"].sum()))
