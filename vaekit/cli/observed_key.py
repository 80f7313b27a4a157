"""The column with known categories: a latent of the model names it, and the data read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jsonargparse import Namespace

from vaekit.exceptions import ConfigError


def pass_observed_key(config: Namespace) -> None:
    """Set the ``observed_key`` of the data to that of the model's latent, if the configuration sets only the latter.

    Raises
    ------
    ConfigError
        If the data have another ``observed_key``, or do not have this argument.
    """
    latents = (getattr(config.model, "init_args", None) or {}).get("latents")
    keys = {_observed_key(latent): name for name, latent in dict(latents or {}).items()}
    keys.pop(None, None)
    for key, name in keys.items():  # the model rejects several ones
        data = config.data.init_args
        if "observed_key" not in data:
            raise ConfigError(f"latent {name!r}: observed_key={key!r}, but {config.data.class_path} has no labels.")
        if data.observed_key not in (None, key):
            raise ConfigError(
                f"data.observed_key={data.observed_key!r} must be {key!r}, that of latent {name!r}. Omit it."
            )
        data.observed_key = key


def _observed_key(latent: Any) -> str | None:
    """Return the observed_key in the configuration of a latent."""
    arguments = latent.get("init_args") if isinstance(latent, Mapping | Namespace) else None
    return (arguments or {}).get("observed_key")
