"""``--model.estimator`` for a model whose latents have names: that of its one discrete latent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vaekit.cli.class_flags import component_class
from vaekit.cli.raw_config import configs, read

FLAG = "--model.estimator"


def name_latent(arguments: list[str]) -> list[str]:
    """Return the arguments, ``--model.estimator`` as that of the configuration's one discrete latent.

    Where its latents have no names (``DiscreteVAE``), or several or none are discrete, the flag stays as it is, and the
    parser says what is possible.
    """
    if not any(_is_flag(argument) for argument in arguments):
        return arguments
    latents: Mapping[str, Any] = {}
    for text in configs(arguments):
        latents = _latents(read(text)[1]) or latents
    discrete = list(_discrete(latents))
    if len(discrete) != 1:
        return arguments
    key = f"--model.latents.{discrete[0]}.estimator"
    return [key + argument.removeprefix(FLAG) if _is_flag(argument) else argument for argument in arguments]


def _is_flag(argument: str) -> bool:
    return argument.partition("=")[0] == FLAG or argument.startswith(f"{FLAG}.")


def _latents(config: Any) -> Mapping[str, Any]:
    """Return the named latents of a configuration, if it has any."""
    for key in ("model", "init_args", "latents"):
        config = config.get(key) if isinstance(config, Mapping) else None
    return config if isinstance(config, Mapping) else {}


def _discrete(latents: Mapping[str, Any]) -> Iterator[str]:
    for name, latent in latents.items():
        cls = component_class(latent.get("class_path") if isinstance(latent, Mapping) else latent, f"latents.{name}")
        if getattr(cls, "discrete", False) is True:
            yield str(name)
