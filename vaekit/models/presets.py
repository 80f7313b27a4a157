"""Named models: they fill the constructor of :class:`VAE` with good defaults, and change nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, final

from vaekit.estimators import Estimator
from vaekit.latents import Categorical, Gaussian, Latent
from vaekit.likelihoods import Likelihood
from vaekit.models.objectives import ELBO, Objective
from vaekit.models.regularizers import Regularizer
from vaekit.models.vae import VAE
from vaekit.networks import MLP


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
    objective, learning_rate, weight_decay, regularizer
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
        regularizer: Regularizer | None = None,
    ) -> None:
        if latents is None:
            latents = {"y": Categorical(16, learned_prior=True), "z": Gaussian(10, parent="y")}
        encoder, decoder = MLP(list(hidden), dropout), MLP(list(reversed(hidden)), dropout)
        super().__init__(
            features,
            encoder,
            latents,
            decoder,
            likelihood,
            covariates,
            objective,
            learning_rate,
            weight_decay,
            regularizer,
        )


@final
class SequentialVAE(VAE):
    r"""A VAE with a sequence of categorical latents ``z1``, ``z2``, ..., each of which depends on all before it.

    .. math:: p(z) = \prod_t p(z_t | z_{<t}), \quad q(z | x) = \prod_t q(z_t | x, z_{<t})

    Each factor is a network of one layer; the decoder sees all latents. The values on the way are a path in a tree, to
    which each latent adds a level. Training draws joint trajectories, as latents with an axis of rows each would cost
    as many rows as the product of these; with ``ScoreFunction(critic=Critic(...), lam=...)`` each latent is charged
    with what it costs itself and what its successors are foreseen to cost. Codes and embeddings are those along the
    most probable path.

    Parameters
    ----------
    features, covariates
        Sizes; they come from the data.
    likelihood
        Distribution of the observations.
    categories
        Number of categories of each latent.
    hidden
        Widths of the encoder's layers; the decoder mirrors them.
    dropout
        In encoder and decoder.
    estimator
        Gradient estimator of the latents, each of which gets a copy; ``"auto"`` is the score function with
        leave-one-out.
    objective
        As in :class:`VAE`; None: the evidence lower bound with 4 joint trajectories.
    learning_rate, weight_decay
        As in :class:`VAE`.

    Raises
    ------
    ConfigError
        If there is no latent; if ``objective`` gives each latent its rows and these are too many.

    Examples
    --------
    >>> from vaekit.likelihoods import Bernoulli
    >>> model = SequentialVAE(64, Bernoulli(), categories=[2, 3, 4])
    >>> {name: latent.parents for name, latent in model.latents.items()}
    {'z1': (), 'z2': ('z1',), 'z3': ('z1', 'z2')}
    """

    def __init__(
        self,
        features: int,
        likelihood: Likelihood,
        covariates: int = 0,
        categories: Sequence[int] = (4, 4, 4, 4),
        hidden: Sequence[int] = (128,),
        dropout: float = 0.0,
        estimator: Estimator | Literal["auto"] = "auto",
        objective: Objective | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
    ) -> None:
        names = [f"z{number}" for number in range(1, len(categories) + 1)]
        latents: dict[str, Latent] = {
            name: Categorical(count, learned_prior=True, estimator=estimator, parents=names[:place])
            for place, (name, count) in enumerate(zip(names, categories, strict=True))
        }
        encoder, decoder = MLP(list(hidden), dropout), MLP(list(reversed(hidden)), dropout)
        objective = objective or ELBO(num_samples=4)
        super().__init__(
            features, encoder, latents, decoder, likelihood, covariates, objective, learning_rate, weight_decay
        )
