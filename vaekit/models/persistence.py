"""Saving and loading of models without a trainer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytorch_lightning as pl
import torch

from vaekit._core.atomic import atomic_write
from vaekit._core.class_paths import trust as trust_packages
from vaekit.models.checkpoint import load_model
from vaekit.models.model_argument import check_model, check_path
from vaekit.models.vae import VAE


def save(model: VAE, path: Any) -> None:
    """Write a model to a checkpoint without a trainer, for example one from ``vaekit.analysis.map_query``.

    The checkpoint contains weights, arguments and the data registry. :func:`load` and all commands read it. It does
    not contain the state of an optimizer, so that a run cannot be resumed from it. An existing file is replaced.

    Parameters
    ----------
    model : VAE
        The model.
    path : path-like
        File to write, such as ``mapped.ckpt``.

    Raises
    ------
    OutputError
        If the file cannot be written, for example because the directory does not exist or the disk is full.
    CheckpointError
        If ``model`` is not a model, or ``path`` not a path.

    Examples
    --------
    >>> import vaekit
    >>> adata.obs["batch"] = "another"
    >>> mapped = vaekit.analysis.map_query(adata, model, max_steps=2)
    >>> vaekit.save(mapped, "mapped.ckpt")
    >>> vaekit.load("mapped.ckpt").covariates
    3
    """
    check_model(model)
    check_path(path, "save(model, path)")
    checkpoint: dict[str, Any] = {
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": pl.__version__,
        "state_dict": model.state_dict(),
        "hyper_parameters": dict(model.hparams),
        **model.run_content,
    }
    model.on_save_checkpoint(checkpoint)
    with atomic_write(path) as temporary:
        torch.save(checkpoint, temporary)


def load(path: Any, expected: type[VAE] = VAE, map_location: Any = "cpu", trust: Iterable[str] = ()) -> VAE:
    """Load a trained model in evaluation mode. No code of the file runs, and it can name only trusted classes.

    Parameters
    ----------
    path : path-like
        Checkpoint file or exported directory, such as ``runs/pbmc_mixed/last.ckpt``.
    expected : type
        Class that the model must have.
    map_location : device or str
        Device of the weights.
    trust : Iterable[str]
        Packages other than vaekit whose components the model may contain, such as ``["mypackage"]``. They stay
        trusted in this process.

    Raises
    ------
    CheckpointError
        If the file is not a vaekit checkpoint or is damaged, names a class outside vaekit and the trusted packages,
        contains another class than ``expected``, or its weights do not fit.

    Examples
    --------
    >>> import vaekit
    >>> vaekit.save(model, "model.ckpt")  # or the last.ckpt of a run
    >>> list(vaekit.load("model.ckpt").latents)
    ['y', 'z']
    """
    check_path(path, "load(path)")
    trust_packages(trust)
    return load_model(path, expected, map_location)
