"""What a model generates: draws from its prior, of each category, and along each unit of a Gaussian latent."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vaekit.batch import Batch
from vaekit.diagnostics.evaluation_mode import evaluation_mode
from vaekit.exceptions import VaekitError
from vaekit.models import VAE


def sample_prior(model: VAE, count: int, given: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Draw the latents from their priors, parents first.

    Parameters
    ----------
    model
        The model.
    count
        Draws.
    given
        Values ``[count, *event]`` of some latents, which are kept.

    Returns
    -------
    dict
        Values ``[count, *event]`` by name.
    """
    values, like = dict(given or {}), torch.zeros(count, model.features, device=model.device)
    with evaluation_mode(model):
        for name in model.networks.order:
            if name not in values:
                prior = model.networks.prior(name, values, like)
                values[name] = prior.sample(torch.Size([count]) if not prior.batch_shape else torch.Size())
    return values


def decoded_mean(model: VAE, values: Mapping[str, Tensor]) -> Tensor:
    """Return the mean of p(x | z) at values ``[count, *event]`` of the latents, ``[count, features]``."""
    count = len(next(iter(values.values())))
    with evaluation_mode(model):
        batch = Batch(torch.zeros(count, model.features, device=model.device))
        return model.networks.observation(values, batch).mean.expand(count, model.features)


def prior_means(model: VAE, count: int) -> Tensor:
    """Return the mean of p(x | z) at draws of the prior, ``[count, features]``."""
    return decoded_mean(model, sample_prior(model, count))


def single_categories(model: VAE) -> list[str]:
    """Return the latents that are one categorical variable."""
    return [name for name, x in model.latents.items() if x.is_single_categorical]


def gaussian_latents(model: VAE) -> list[str]:
    """Return the latents that are Gaussian vectors."""
    return [name for name, latent in model.latents.items() if latent.supports_traversal]


def category_means(model: VAE, name: str, count: int) -> Tensor:
    """Return the mean of p(x | z) at draws of each category, ``[categories, count, features]``.

    The other latents come from their priors, given the category where they depend on it, as if it had been chosen by
    hand: a latent that the category depends on is drawn without a look at it. Each draw's noise is its own.

    Raises
    ------
    VaekitError
        If the latent is not a single categorical variable.
    """
    if name not in single_categories(model):
        raise VaekitError(
            f"latent {name!r} is not a single categorical variable; there are: "
            + (", ".join(map(repr, single_categories(model))) or "none")
        )
    categories = model.latents[name].size
    one_hot = torch.eye(categories, device=model.device).repeat_interleave(count, 0).unsqueeze(1)
    values = sample_prior(model, categories * count, {name: one_hot})
    return decoded_mean(model, values).unflatten(0, (categories, count))


def latent_traversal(model: VAE, name: str, batch: Batch, steps: int = 11, span: float = 3.0) -> tuple[Tensor, Tensor]:
    """Move each unit of a Gaussian latent along its prior, the others kept as one observation has them.

    Discrete latents are kept at their most probable codes. A unit goes over ``span`` standard deviations of its prior
    to both sides of the prior's mean: that of the category where the prior depends on one.

    Parameters
    ----------
    model
        The model.
    name
        Of the Gaussian latent.
    batch
        One observation.
    steps
        Positions.
    span
        In standard deviations.

    Returns
    -------
    means
        Means of p(x | z), ``[units, steps, features]``.
    positions
        In standard deviations, ``[steps]``.

    Raises
    ------
    VaekitError
        If the latent is no Gaussian, or there is not one observation.
    """
    if name not in gaussian_latents(model):
        raise VaekitError(
            f"latent {name!r} is no Gaussian; there are: {', '.join(map(repr, gaussian_latents(model))) or 'none'}"
        )
    if len(batch.x) != 1:
        raise VaekitError(f"a traversal starts from one observation, and there are {len(batch.x)}")
    batch = batch.to(model.device)
    positions = torch.linspace(-span, span, steps, device=model.device)
    with evaluation_mode(model):
        values = {}
        for other, q in model.posteriors(batch).items():
            values[other] = model.latents[other].point_estimate(q)
        prior = model.networks.prior(name, values, batch.x)
        units = model.latents[name].size
        start = values[name].expand(units, steps, units).clone()
        where = prior.mean.reshape(-1, 1) + prior.stddev.reshape(-1, 1) * positions  # [units, steps]
        diagonal = torch.arange(units, device=model.device)
        start[diagonal, :, diagonal] = where
        values = {other: value.expand(units * steps, *value.shape[1:]) for other, value in values.items()}
        values[name] = start.flatten(0, 1)
    return decoded_mean(model, values).unflatten(0, (units, steps)), positions
