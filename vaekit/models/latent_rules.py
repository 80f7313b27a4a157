"""Rules for the latents of a model: their number and names, and at most one library size."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from vaekit.exceptions import ConfigError
from vaekit.latents import Latent
from vaekit.likelihoods import Likelihood

RESERVED_NAMES = ("weight",)  # kl_weight is logged like kl_<name>


def check_sizes_and_names(features: int, latents: Mapping[str, Latent]) -> None:
    """Raise a ConfigError if there is no feature or latent, or a latent has an invalid name."""
    if features < 1:
        raise ConfigError(f"VAE: features={features} must be positive; it comes from the data (data.features).")
    if not latents:
        raise ConfigError("VAE: latents is empty. Pass at least one latent.")
    for name in latents:
        if not name.isidentifier() or name in dir(nn.ModuleDict()) or name in RESERVED_NAMES:
            raise ConfigError(
                f"VAE: a latent cannot be named {name!r}. Use an identifier such as 'y' or 'z' that is neither an "
                f"attribute of a torch module nor {', '.join(map(repr, RESERVED_NAMES))} (a logged metric)."
            )


def find_library(latents: Mapping[str, Latent], likelihood: Likelihood) -> str | None:
    """Return the name of the latent library size, or None."""
    names = [name for name, latent in latents.items() if latent.is_nuisance]
    if not names:
        return None
    if len(names) > 1 or len(latents) == 1:
        raise ConfigError(
            f"VAE: {', '.join(map(repr, names))} are library sizes, among {len(latents)} latents in total. "
            "Use one library size and at least one other latent."
        )
    if not likelihood.uses_size_factor:
        raise ConfigError(
            f"VAE: latent {names[0]!r} is a library size, but {type(likelihood).__name__} does not use a size factor. "
            "NegativeBinomial, ZeroInflatedNegativeBinomial and Poisson do."
        )
    return names[0]
