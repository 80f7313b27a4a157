"""Samples of a model: from its prior, of each category, and along each dimension of a Gaussian latent."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vaekit.batch import Batch
from vaekit.exceptions import VaekitError
from vaekit.models import VAE
from vaekit.models.evaluation_mode import evaluation_mode


def sample_prior(model: VAE, count: int, values: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Sample the latents from their priors, parents first.

    Parameters
    ----------
    model : VAE
        The model.
    count : int
        Number of samples.
    values : Mapping[str, Tensor], each of shape (count, *event), optional
        Values of latents that are not sampled.

    Returns
    -------
    dict[str, Tensor], each of shape (count, *event)
        Values of all latents by name.

    Examples
    --------
    >>> import vaekit
    >>> values = vaekit.diagnostics.sample_prior(model, count=4)
    >>> {name: tuple(value.shape) for name, value in values.items()}
    {'y': (4, 1, 3), 'z': (4, 2)}
    """
    values, like = dict(values or {}), torch.zeros(count, model.features, device=model.device)
    with evaluation_mode(model):
        for name in model.networks.order:
            if name not in values:
                prior = model.networks.prior(name, values, like)
                values[name] = prior.sample(torch.Size([count]) if not prior.batch_shape else torch.Size())
    return values


def decoded_mean(model: VAE, values: Mapping[str, Tensor]) -> Tensor:
    """Return the mean of p(x | z), shape (count, features), at values of the latents, each of shape (count, *event).

    Raises
    ------
    VaekitError
        If the mean also depends on covariates or on a size factor, as that of a model of cells.

    Examples
    --------
    >>> import torch, vaekit
    >>> images = vaekit.GaussianVAE(64, vaekit.likelihoods.Bernoulli(), latent_dim=2)
    >>> vaekit.diagnostics.decoded_mean(images, {"z": torch.zeros(3, 2)}).shape
    torch.Size([3, 64])
    """
    if model.covariates or model.networks.likelihood.uses_size_factor:
        inputs = "covariates" if model.covariates else "the size factor of a cell"
        raise VaekitError(
            f"The mean of p(x | z) of this model also depends on {inputs}. Pass latents and covariates to "
            "vaekit.analysis.decode."
        )
    count = len(next(iter(values.values())))
    with evaluation_mode(model):
        batch = Batch(torch.zeros(count, model.features, device=model.device))
        return model.networks.observation(values, batch).mean.expand(count, model.features)


def prior_means(model: VAE, count: int) -> Tensor:
    """Return the mean of p(x | z), shape (count, features), at samples of the prior.

    Examples
    --------
    >>> import vaekit
    >>> images = vaekit.GaussianVAE(64, vaekit.likelihoods.Bernoulli())
    >>> vaekit.diagnostics.prior_means(images, count=3).shape
    torch.Size([3, 64])
    """
    return decoded_mean(model, sample_prior(model, count))


def single_categories(model: VAE) -> list[str]:
    """Return the names of the latents that are one categorical variable."""
    return [name for name, latent in model.latents.items() if latent.is_single_categorical]


def gaussian_latents(model: VAE) -> list[str]:
    """Return the names of the Gaussian latents."""
    return [name for name, latent in model.latents.items() if latent.supports_traversal]


def category_means(model: VAE, name: str, count: int) -> Tensor:
    """Return the mean of p(x | z) at samples of each category, shape (categories, count, features).

    The other latents are sampled independently for each category from their priors. The category is an intervention: it
    affects the latents that depend on it, but not its parents.

    Raises
    ------
    VaekitError
        If the latent is not a single categorical variable.

    Examples
    --------
    >>> import vaekit
    >>> images = vaekit.MixedVAE(64, vaekit.likelihoods.Bernoulli())  # with 16 categories y
    >>> vaekit.diagnostics.category_means(images, "y", count=5).shape  # 64 pixels of 5 samples per category
    torch.Size([16, 5, 64])
    """
    _check_latent(name, single_categories(model), "a single categorical variable")
    categories = model.latents[name].size
    one_hot = torch.eye(categories, device=model.device).repeat_interleave(count, 0).unsqueeze(1)
    values = sample_prior(model, categories * count, {name: one_hot})
    return decoded_mean(model, values).unflatten(0, (categories, count))


def latent_traversal(model: VAE, name: str, batch: Batch, steps: int = 11, span: float = 3.0) -> tuple[Tensor, Tensor]:
    """Vary each dimension of a Gaussian latent along its prior, with the others at the posterior of one observation.

    Continuous latents have their posterior means, and discrete ones their most probable codes. A dimension covers
    ``span`` standard deviations on both sides of the mean of the prior, given the values of its parents. The position
    is an intervention: the latents that depend on this one have the mean or the most probable code of their prior given
    the new value, and no other latent changes.

    Parameters
    ----------
    model : VAE
        The model.
    name : str
        Name of the Gaussian latent.
    batch : Batch
        One observation.
    steps : int
        Number of positions per dimension.
    span : float
        Largest position in standard deviations.

    Returns
    -------
    means : Tensor, shape (dimensions, steps, features)
        Means of p(x | z).
    positions : Tensor, shape (steps,)
        Positions in standard deviations of the prior.

    Raises
    ------
    VaekitError
        If the latent is not Gaussian, or the batch does not have exactly one observation.

    Examples
    --------
    >>> import torch, vaekit
    >>> images = vaekit.GaussianVAE(64, vaekit.likelihoods.Bernoulli(), latent_dim=2)
    >>> means, values = vaekit.diagnostics.latent_traversal(images, "z", vaekit.Batch(torch.rand(1, 64)), steps=5)
    >>> means.shape, values.shape
    (torch.Size([2, 5, 64]), torch.Size([5]))
    """
    _check_latent(name, gaussian_latents(model), "Gaussian")
    if len(batch.x) != 1:
        raise VaekitError(f"latent_traversal: batch has {len(batch.x)} observations. Pass exactly one observation.")
    batch = batch.to(model.device)
    positions = torch.linspace(-span, span, steps, device=model.device)
    with evaluation_mode(model):
        values = {other: model.latents[other].point_estimate(q) for other, q in model.posteriors(batch).items()}
        prior = model.networks.prior(name, values, batch.x)
        size = model.latents[name].size
        grid = values[name].expand(size, steps, size).clone()
        diagonal = torch.arange(size, device=model.device)
        grid[diagonal, :, diagonal] = prior.mean.reshape(-1, 1) + prior.stddev.reshape(-1, 1) * positions
        values = {other: value.expand(size * steps, *value.shape[1:]) for other, value in values.items()}
        values[name] = grid.flatten(0, 1)
        for other in model.networks.descendants(name):
            values[other] = model.latents[other].point_estimate(model.networks.prior(other, values, batch.x))
    return decoded_mean(model, values).unflatten(0, (size, steps)), positions


def _check_latent(name: str, valid: list[str], kind: str) -> None:
    if name not in valid:
        raise VaekitError(f"latent {name!r} is not {kind}. Available: {', '.join(map(repr, valid)) or 'none'}.")
