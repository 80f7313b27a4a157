"""Evaluation of a model on several devices."""

from __future__ import annotations

import torch

from vaekit.analysis.device_prediction import predict_on_devices
from vaekit.batch import Batch
from vaekit.data.dataset import BatchDataset
from vaekit.diagnostics.evaluation import BatchEvaluation, Evaluation, evaluate_batch, join_evaluations
from vaekit.models import VAE


def evaluate_on_devices(
    model: VAE, dataset: BatchDataset, num_samples: int, devices: int, batch_size: int, seed: int
) -> Evaluation | None:
    """Return the result of :func:`vaekit.diagnostics.evaluate_model` in the first process, and None in others.

    The noise of an observation follows from the seed and its content, so that it does not depend on the number of
    devices, except for observations of equal content.

    Parameters
    ----------
    model, num_samples
        As for :func:`vaekit.diagnostics.evaluate_model`.
    dataset : BatchDataset
        Observations.
    devices, batch_size
        As for :func:`vaekit.analysis.device_prediction.predict_on_devices`.
    seed : int
        Seed of the samples.
    """
    parts: list[BatchEvaluation] = []

    def evaluate(batch: Batch, start: int) -> BatchEvaluation:
        torch.manual_seed(seed)  # of which the seed of the keyed noise is drawn
        return evaluate_batch(model, batch, num_samples)

    predict_on_devices(
        model, dataset, evaluate, lambda start, part: parts.append(part), devices, batch_size, "evaluating"
    )
    return join_evaluations(model, parts) if parts else None
