"""Presets: models with default networks and latents. They do not override methods of :class:`VAE`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, final

from vaekit.estimators import Estimator
from vaekit.latents import Categorical, Gaussian, Latent
from vaekit.likelihoods import Likelihood
from vaekit.models.objectives import Objective
from vaekit.models.regularizers import Regularizer
from vaekit.models.vae import VAE
from vaekit.networks import MLP


def mirrored_mlps(hidden: Sequence[int], encoder_dropout: float | None, dropout: float) -> tuple[MLP, MLP]:
    """Return an encoder, and the decoder that mirrors it."""
    return MLP(list(hidden), dropout if encoder_dropout is None else encoder_dropout), MLP(
        list(reversed(hidden)), dropout
    )


@final
class GaussianVAE(VAE):
    """VAE with one Gaussian latent ``z`` and a standard normal prior.

    Parameters
    ----------
    latent_dim : int
        Number of dimensions of ``z``.
    hidden : Sequence[int]
        Widths of the encoder's layers; the decoder mirrors them.
    dropout : float
        Dropout probability in the decoder.
    encoder_dropout : float or None
        Dropout probability in the encoder. None: as in the decoder.
    estimator : Estimator or "auto"
        Gradient estimator of ``z``.
    features, likelihood, covariates, objective, learning_rate, weight_decay, encoder_covariates
        As in :class:`VAE`.

    Examples
    --------
    >>> import pytorch_lightning as pl, vaekit
    >>> cells = vaekit.data.simulate_counts(200, 50)
    >>> data = vaekit.data.GeneExpressionData(cells)
    >>> model = vaekit.GaussianVAE(data.features, vaekit.likelihoods.NegativeBinomial(), latent_dim=5)
    >>> pl.Trainer(max_epochs=100).fit(model, datamodule=data)  # doctest: +SKIP
    >>> model.latents["z"].size
    5
    """

    def __init__(
        self,
        features: int,
        likelihood: Likelihood,
        covariates: int = 0,
        latent_dim: int = 10,
        hidden: Sequence[int] = (128,),
        dropout: float = 0.1,
        encoder_dropout: float | None = None,
        estimator: Estimator | Literal["auto"] = "auto",
        objective: Objective | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
        encoder_covariates: bool = False,
    ) -> None:
        latents: dict[str, Latent] = {"z": Gaussian(latent_dim, estimator=estimator)}
        encoder, decoder = mirrored_mlps(hidden, encoder_dropout, dropout)
        training = (objective, learning_rate, weight_decay, None, encoder_covariates)
        super().__init__(features, encoder, latents, decoder, likelihood, covariates, *training)


@final
class DiscreteVAE(VAE):
    """VAE with one latent ``y`` of categorical variables and a uniform prior.

    The variables together are a short description of an observation in parts: two cells may share some categories and
    differ in others. Use it for compression, for search by codes, to see which variables vary with a condition, and for
    the marker genes of each category (:func:`vaekit.analysis.markers`).

    The codes are not clusters. Ten variables of 8 categories have a billion joint codes: 2,638 blood cells had 1,650
    different ones. :func:`vaekit.analysis.code_tree` merges them into a few states. For groups of cells, use
    :class:`MixedVAE`, whose ``y`` is one variable, or :func:`vaekit.analysis.states`, which reports their stability.

    Parameters
    ----------
    variables, categories : int
        Number of variables in ``y``, and of categories per variable.
    hidden : Sequence[int]
        Widths of the encoder's layers; the decoder mirrors them.
    dropout : float
        Dropout probability in the decoder.
    encoder_dropout : float or None
        Dropout probability in the encoder. None: as in the decoder.
    estimator : Estimator or "auto"
        Gradient estimator of ``y``.
    features, likelihood, covariates, objective, learning_rate, weight_decay, encoder_covariates
        As in :class:`VAE`.

    Examples
    --------
    >>> import vaekit
    >>> likelihood = vaekit.likelihoods.Bernoulli()
    >>> model = vaekit.DiscreteVAE(64, likelihood, variables=3, categories=4, estimator=vaekit.estimators.DisARM())
    >>> model.latents["y"]  # doctest: +ELLIPSIS
    Categorical(...
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
        encoder_dropout: float | None = None,
        estimator: Estimator | Literal["auto"] = "auto",
        objective: Objective | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
        encoder_covariates: bool = False,
    ) -> None:
        latents: dict[str, Latent] = {"y": Categorical(categories, variables, estimator=estimator)}
        encoder, decoder = mirrored_mlps(hidden, encoder_dropout, dropout)
        training = (objective, learning_rate, weight_decay, None, encoder_covariates)
        super().__init__(features, encoder, latents, decoder, likelihood, covariates, *training)


@final
class MixedVAE(VAE):
    """VAE with several latents, by default a category ``y`` and a Gaussian ``z`` with one prior per category.

    Parameters
    ----------
    latents : dict[str, Latent] or None
        Latent variables by name. None: ``y`` with 16 categories of learned probability, and ``z`` with 10 dimensions,
        whose prior is a mixture with one normal per category.
    hidden : Sequence[int]
        Widths of the encoder's layers; the decoder mirrors them.
    dropout : float
        Dropout probability in the decoder.
    encoder_dropout : float or None
        Dropout probability in the encoder. None: as in the decoder.
    labels : dict[str, list[str]] or None
        As in :class:`VAE`. If ``latents`` is None, the categories of ``y`` are these labels, known for some
        observations, and ``z`` has 20 dimensions.
    features, likelihood, covariates, objective, learning_rate, weight_decay, regularizer, encoder_covariates
        As in :class:`VAE`.

    Examples
    --------
    Gaussian coordinates within one of eight categories:

    >>> import vaekit
    >>> from vaekit.latents import Categorical, Gaussian
    >>> latents = {"y": Categorical(8), "z": Gaussian(10, parents=["y"])}
    >>> model = vaekit.MixedVAE(2000, vaekit.likelihoods.NegativeBinomial(), latents=latents)
    >>> {name: latent.size for name, latent in model.latents.items()}
    {'y': 8, 'z': 10}

    Cell types, known for some cells:

    >>> cells = vaekit.data.simulate_counts(200, 50, clusters=3)
    >>> data = vaekit.data.GeneExpressionData(cells, observed_key="cluster")
    >>> likelihood = vaekit.likelihoods.NegativeBinomial()
    >>> vaekit.MixedVAE(data.features, likelihood, labels=data.observed_categories).label_names
    ('cluster0', 'cluster1', 'cluster2')
    """

    def __init__(
        self,
        features: int,
        likelihood: Likelihood,
        covariates: int = 0,
        latents: dict[str, Latent] | None = None,
        hidden: Sequence[int] = (128,),
        dropout: float = 0.1,
        encoder_dropout: float | None = None,
        objective: Objective | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
        regularizer: Regularizer | None = None,
        encoder_covariates: bool = False,
        labels: dict[str, list[str]] | None = None,
    ) -> None:
        if latents is None and labels:
            y = Categorical(learned_prior=True, observed_key=next(iter(labels)))
            latents = {"y": y, "z": Gaussian(20, parents=["y"])}
        elif latents is None:
            latents = {"y": Categorical(16, learned_prior=True), "z": Gaussian(10, parents=["y"])}
        encoder, decoder = mirrored_mlps(hidden, encoder_dropout, dropout)
        training = (objective, learning_rate, weight_decay, regularizer, encoder_covariates, labels)
        super().__init__(features, encoder, latents, decoder, likelihood, covariates, *training)
