"""Check of an argument that must be a model."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

from vaekit.exceptions import CheckpointError
from vaekit.models.vae import VAE


def check_model(value: Any, argument: str = "model") -> VAE:
    """Return a model.

    Raises
    ------
    CheckpointError
        If the value is not a model. The message has the remedy for a class, a path, and swapped arguments.

    Examples
    --------
    >>> check_model("last.ckpt")
    Traceback (most recent call last):
        ...
    vaekit.exceptions.CheckpointError: model='last.ckpt' is a path. Pass the model: vaekit.load('last.ckpt').
    """
    if isinstance(value, VAE):
        return value
    kind = type(value).__name__
    if isinstance(value, str | Path):
        raise CheckpointError(f"{argument}={str(value)!r} is a path. Pass the model: vaekit.load({str(value)!r}).")
    if inspect.isclass(value):
        raise CheckpointError(
            f"{argument}={value.__name__} is a class. Pass a trained model, such as vaekit.fit(adata)."
        )
    remedy = "Pass the result of vaekit.fit or vaekit.load."
    if kind == "AnnData":
        remedy = "These are cells: check the order of the arguments."
    raise CheckpointError(f"{argument} has type {kind}, but must be a model or the path of a checkpoint. {remedy}")


def check_path(value: Any, call: str) -> None:
    """Raise a CheckpointError if the path of a checkpoint is not a path; ``call`` is the call with its arguments."""
    if not isinstance(value, str | os.PathLike):
        kind = value.__name__ if inspect.isclass(value) else type(value).__name__
        raise CheckpointError(f"path has type {kind}, but must be the path of a checkpoint: vaekit.{call}.")
