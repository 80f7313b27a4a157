"""Start of a run: checks of the trainer, initialization from the data, and process-wide settings."""

from __future__ import annotations

import os
from typing import Any

import pytorch_lightning as pl
import torch

from vaekit.exceptions import ConfigError
from vaekit.models.distributed import seed_rank
from vaekit.models.held_priors import check_prior_starts
from vaekit.models.resume import check_same_features


def set_up_run(model: Any, trainer: pl.Trainer, stage: str) -> None:
    """Check the precision, and before ``fit`` initialize the model from the data.

    Raises
    ------
    ConfigError
        If the weights would have half precision, or the data have another number of features or covariates.
    """
    if trainer.precision in ("bf16-true", "16-true"):
        raise ConfigError(
            f"VAE: trainer.precision={trainer.precision!r} would round counts and small steps. Use 'bf16-mixed' or "
            "'16-mixed', which compute matrix products in half precision only."
        )
    if stage != "fit":
        return
    if torch.is_inference_mode_enabled():
        raise ConfigError("VAE: training needs gradients, which torch.inference_mode() forbids. Train outside of it.")
    if trainer.precision != "64-true" and any(p.dtype == torch.float64 for p in model.parameters()):
        raise ConfigError(
            f"VAE: trainer.precision={trainer.precision!r}, but the weights have 64 bits, as after "
            "torch.set_default_dtype(torch.float64). Set torch.float32, or pass precision='64-true'."
        )
    data: Any = getattr(trainer, "datamodule", None)
    if data is not None:
        model.networks.likelihood.check(data.example)
        registry = data.state_dict()
        check_labels(model, data)
        if model.data_registry is None:
            check_sizes(model, data)
            model.networks.init_from_data(data.statistics, data.draw_training)
        else:  # a trained model, which vaekit.load returned in evaluation mode
            check_same_features(model.data_registry, registry)
            model.train()
        model.data_registry = registry
    seed_rank(trainer.global_rank, trainer.world_size)


def check_sizes(model: Any, data: Any) -> None:
    """Check that a model was built for data with as many features and covariates.

    Raises
    ------
    ConfigError
        If it was not.
    """
    name = type(model).__name__
    if model.features != data.features:
        raise ConfigError(
            f"{name}: features={model.features}, but the data have {data.features}. Build the model with data.features."
        )
    if model.covariates == data.covariates:
        return
    remedy = f"Build the model with data.covariates: {name}(data.features, likelihood, data.covariates)."
    if data.covariates == 0:
        remedy = "Pass batch_key=... (or the keys of other covariates) to the data, or covariates=0 to the model."
    raise ConfigError(
        f"{name}: covariates={model.covariates}, but the batches and covariates of the data have {data.covariates} "
        f"columns. {remedy}"
    )


def check_labels(model: Any, data: Any) -> None:
    """Check that the data provide the labels that a model was built for, and that the model uses them.

    Raises
    ------
    ConfigError
        If they do not.
    """
    categories, latent = data.observed_categories, model.label_latent
    if latent is None and categories:
        raise ConfigError(
            f"{type(model).__name__}: no latent uses the observed_key={next(iter(categories))!r} of the data. Add a "
            "latent such as Categorical(observed_key=...), or omit the observed_key of the data."
        )
    if latent is None:
        return
    labels = model.latents[latent].labels
    known = list(labels.names[: labels.num_named])
    if list(categories.get(labels.key, ())) != known:
        found = ", ".join(f"{key!r} with {names}" for key, names in categories.items()) or "none"
        raise ConfigError(
            f"latent {latent!r}: observed_key={labels.key!r} has the categories {known}, but the labels of the data "
            f"are {found}. Pass observed_key={labels.key!r} to the data, and build the model with "
            "labels=data.observed_categories."
        )


def start_run(model: Any, trainer: pl.Trainer) -> float:
    """Prepare the process for training, and return the total number of steps, which may be infinite.

    Raises
    ------
    ConfigError
        If the objective has a warm-up, or a latent starts its prior during training, and the number of steps is not
        known; if there are too few observations for that start.
    """
    if not torch.cuda.is_available():
        # Lightning sets this variable for forked processes; each optimizer step would then search for the GPU driver
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    total_steps = trainer.estimated_stepping_batches
    model.objective.check_steps(total_steps)
    check_prior_starts(model.latents, total_steps, trainer)
    return total_steps
