"""Named models: they fill the constructor of :class:`VAE` with good defaults, and change nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, final

from vaekit.estimators import Estimator
from vaekit.latents import Categorical, Gaussian, Latent
from vaekit.likelihoods import Likelihood
from vaekit.models.vae import VAE
from vaekit.networks import MLP
from vaekit.objectives import Objective


@final
class GaussianVAE(VAE):
    """A VAE with one Gaussian latent vector ``z`` and a standard normal prior.

    Parameters
    ----------
    features, covariates
        Sizes; they come from the data.
    likelihood
        Distribution of the observations.
    latent_dim
        Dimensions of ``z``.
    hidden
        Widths of the encoder's layers; the decoder mirrors them.
    dropout
        In encoder and decoder.
    estimator
        Gradient estimator of ``z``.
    objective, learning_rate, weight_decay
        As in :class:`VAE`.
    """

    def __init__(
        self,
        features: int,
        likelihood: Likelihood,
        covariates: int = 0,
        latent_dim: int = 10,
        hidden: Sequence[int] = (128,),
        dropout: float = 0.1,
        estimator: Estimator | Literal["auto"] = "auto",
        objective: Objective | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
    ) -> None:
        latents: dict[str, Latent] = {"z": Gaussian(latent_dim, estimator=estimator)}
        encoder, decoder = MLP(list(hidden), dropout), MLP(list(reversed(hidden)), dropout)
        super().__init__(
            features, encoder, latents, decoder, likelihood, covariates, objective, learning_rate, weight_decay
        )


@final
class DiscreteVAE(VAE):
    """A VAE with one vector ``y`` of one-hot categorical variables and a uniform prior.

    Parameters
    ----------
    features, covariates
        Sizes; they come from the data.
    likelihood
        Distribution of the observations.
    variables, categories
        Number of variables in ``y``, and of categories of each.
    hidden
        Widths of the encoder's layers; the decoder mirrors them.
    dropout
        In encoder and decoder.
    estimator
        Gradient estimator of ``y``.
    objective, learning_rate, weight_decay
        As in :class:`VAE`.
    """

    def __init__(
        self,
        features: int,
        likelihood: Likelihood,
        covariates: int = 0,
        variables: int = 20,
        categories: int = 10,
        hidden: Sequence[int] = (128,),
        dropout: float = 0.0,
        estimator: Estimator | Literal["auto"] = "auto",
        objective: Objective | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
    ) -> None:
        latents: dict[str, Latent] = {"y": Categorical(categories, variables, estimator=estimator)}
        encoder, decoder = MLP(list(hidden), dropout), MLP(list(reversed(hidden)), dropout)
        super().__init__(
            features, encoder, latents, decoder, likelihood, covariates, objective, learning_rate, weight_decay
        )


@final
class MixedVAE(VAE):
    """A VAE with several latents, by default a category ``y`` and a Gaussian ``z`` whose prior it chooses.

    Parameters
    ----------
    features, covariates
        Sizes; they come from the data.
    likelihood
        Distribution of the observations.
    latents
        Latent variables by name; None: ``y``, 16 categories with learned sizes, and ``z``, 10 dimensions, whose
        prior is a normal for each category (a mixture of clusters).
    hidden
        Widths of the encoder's layers; the decoder mirrors them.
    dropout
        In encoder and decoder.
    objective, learning_rate, weight_decay
        As in :class:`VAE`.
    """

    def __init__(
        self,
        features: int,
        likelihood: Likelihood,
        covariates: int = 0,
        latents: dict[str, Latent] | None = None,
        hidden: Sequence[int] = (128,),
        dropout: float = 0.1,
        objective: Objective | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
    ) -> None:
        if latents is None:
            latents = {"y": Categorical(16, learned_prior=True), "z": Gaussian(10, parent="y")}
        encoder, decoder = MLP(list(hidden), dropout), MLP(list(reversed(hidden)), dropout)
        super().__init__(
            features, encoder, latents, decoder, likelihood, covariates, objective, learning_rate, weight_decay
        )
