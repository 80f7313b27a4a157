"""The latent whose categories are known for some observations, and its names from the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vaekit.exceptions import ConfigError, did_you_mean
from vaekit.latents import Latent

REMEDY = "GeneExpressionData(..., observed_key=...) reads it; then pass labels=data.observed_categories to the model."


def name_categories(latents: Mapping[str, Latent], labels: Mapping[str, Sequence[str]]) -> str | None:
    """Set the names of the categories of the observed latent, and return its name; None if no latent is observed.

    Parameters
    ----------
    latents : Mapping[str, Latent]
        Latents before they are built.
    labels : Mapping[str, Sequence[str]]
        Names of the categories by column of the data.

    Raises
    ------
    ConfigError
        If several latents are observed, the column of the observed one is not in ``labels``, or ``labels`` are not
        used by any latent.
    """
    observed = {name: latent.labels for name, latent in latents.items() if latent.labels is not None}
    if len(observed) > 1:
        keys = ", ".join(f"{name!r} (observed_key={labels.key!r})" for name, labels in observed.items())
        raise ConfigError(f"VAE: the latents {keys} are observed, but at most one can be. Omit the other observed_key.")
    if not observed:
        if labels:
            raise ConfigError(
                f"VAE: labels of {', '.join(map(repr, labels))} are given, but no latent has this observed_key. Use a "
                f"latent such as Categorical(observed_key={next(iter(labels))!r}), or omit the labels."
            )
        return None
    ((name, own),) = observed.items()
    if own.key not in labels:
        hint = did_you_mean(own.key, labels) if labels else REMEDY
        raise ConfigError(f"latent {name!r}: observed_key={own.key!r} not found in labels. {hint}")
    if latents[name].posterior_parents:
        raise ConfigError(
            f"latent {name!r}: observed_key={own.key!r} cannot be combined with a posterior that depends on other "
            f"latents, {list(latents[name].posterior_parents)}. Pass conditional_posterior=False, so that only the "
            "prior depends on its parents."
        )
    latents[name].set_label_names(labels[own.key])
    return name
