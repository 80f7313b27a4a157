"""The data that a checkpoint was trained on, found again."""

from __future__ import annotations

from typing import Any

from vaekit.component import from_config
from vaekit.data.base import ResidentData
from vaekit.exceptions import CheckpointError, DataError
from vaekit.models import VAE


def reference_of(model: VAE) -> dict[str, Any]:
    """Return the names and the split of the data that a model was trained on.

    Raises
    ------
    CheckpointError
        If the model was never trained on a datamodule.
    """
    if model.reference is None:
        raise CheckpointError(
            "this model knows no data: train it with Trainer.fit(model, datamodule=...) or load a trained checkpoint"
        )
    return model.reference


def training_data(model: VAE) -> ResidentData:
    """Return the datamodule that a model was trained on, with the same split.

    Raises
    ------
    CheckpointError
        If the data were in memory only, or cannot be found as they were.
    """
    reference = reference_of(model)
    if reference.get("in_memory"):
        raise CheckpointError(
            "the model was trained on an AnnData in memory, which is gone: give the file to use (data.path)"
        )
    try:
        data = from_config(reference["config"])
        data.load_state_dict(reference)
        data.setup()
    except DataError as error:
        raise CheckpointError(f"the data that the model was trained on are not there as they were: {error}") from error
    return data
