"""Settings of ``fit``: flat names of arguments, and the keys of the configuration that they mean."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytorch_lightning as pl

from vaekit.callbacks.recipes import LABELS_KEY, read_recipe
from vaekit.callbacks.run_callbacks import as_list
from vaekit.data import GeneExpressionData
from vaekit.exceptions import ConfigError, did_you_mean
from vaekit.models import VAE, DiscreteVAE, GaussianVAE, MixedVAE

MODELS = (GaussianVAE, MixedVAE, DiscreteVAE, VAE)
SETTINGS = (
    "Settings are the arguments of GeneExpressionData, of the model and its latents, and of pytorch_lightning.Trainer."
)
# given by cells, labels and recipe
NOT_SETTINGS = ("features", "covariates", "labels", "observed_key", "adata", "path", "latents", "encoder", "decoder")
OTHER_NAMES = {"seed": "seed_everything", "directory": "trainer.default_root_dir", "labels": LABELS_KEY,
               "progress": "trainer.enable_progress_bar"}  # fmt: skip


def settings_by_key(settings: Mapping[str, Any], latents: str) -> dict[str, Any]:
    """Return the settings by key of the configuration; raise a ConfigError if two of them contradict each other."""
    values: dict[str, Any] = {}
    for name, value in settings.items():
        key = setting_key(name, latents)
        if key in values and values[key] != value:
            raise ConfigError(f"{name}={value!r} sets {key}, which is already {values[key]!r}. Omit one of them.")
        values[key] = value.item() if isinstance(value, np.generic) else value  # Lightning rejects NumPy's scalars
    return values


def setting_key(name: str, latents: str | None = None) -> str:
    """Return the key of the configuration that a setting of :func:`fit` means.

    Parameters
    ----------
    name : str
        An argument of the data, the model, one of its latents, or the trainer.
    latents : str or None
        Kind of latents, which determines the class of the model; None means any class.

    Raises
    ------
    ConfigError
        If the setting or the kind of latents does not exist.

    Examples
    --------
    >>> setting_key("layer"), setting_key("accelerator"), setting_key("latent_dim", "gaussian")
    ('data.layer', 'trainer.accelerator', 'model.latent_dim')
    >>> setting_key("latent_dim", "mixed"), setting_key("topics", "topics")
    ('model.latents.z.dim', 'model.latents.topics.topics')
    """
    if name in OTHER_NAMES:
        return OTHER_NAMES[name]
    model = {} if latents is None else read_recipe(latents)["model"]
    path = model.get("class_path", "")
    classes: list[type] = [cls for cls in MODELS if not model or cls.__name__ == path.rpartition(".")[2]]
    sections: dict[str, list[type]] = {"data": [GeneExpressionData], "model": classes, "trainer": [pl.Trainer]}
    valid: dict[str, str] = {}
    for section, owners in sections.items():
        for parameter in (parameter for cls in owners for parameter in inspect.signature(cls).parameters):
            valid.setdefault(parameter, f"{section}.{parameter}")
    for latent, config in model.get("init_args", {}).get("latents", {}).items():
        valid |= {key: f"model.latents.{latent}.{key}" for key in config["init_args"] if key != "parents"}
    if "dim" in valid:
        valid["latent_dim"] = valid.pop("dim")
    valid = {parameter: key for parameter, key in valid.items() if parameter not in NOT_SETTINGS}
    if name not in valid:
        hint = did_you_mean(name, valid)
        kind = "" if latents is None else f" with latents={latents!r}"
        raise ConfigError(f"{name!r} is not a setting of fit{kind}. {hint if hint.startswith('Did') else SETTINGS}")
    return valid[name]


def set_key(config: dict[str, Any], key: str, value: Any) -> None:
    """Set a key in a configuration; callbacks are added."""
    *parents, name = key.split(".")
    for parent in parents:
        config = config[parent]
        config = config.get("init_args", config)
    config[name] = [*config[name], *as_list(value)] if name == "callbacks" else value
