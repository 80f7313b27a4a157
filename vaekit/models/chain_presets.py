"""Presets with a chain of latents: categories in order, and Gaussian levels. They do not override methods of VAE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, final

from vaekit.estimators import Estimator
from vaekit.exceptions import ConfigError
from vaekit.latents import Categorical, Gaussian, Latent
from vaekit.likelihoods import Likelihood
from vaekit.models.objectives import ELBO, Objective
from vaekit.models.presets import mirrored_mlps
from vaekit.models.vae import VAE


@final
class SequentialVAE(VAE):
    r"""VAE with a sequence of categorical latents ``z1``, ``z2``, ..., each of which depends on all before it.

    .. math:: p(z) = \prod_t p(z_t | z_{<t}), \quad q(z | x) = \prod_t q(z_t | x, z_{<t})

    Each factor is a network with one layer; the decoder sees all latents. A value is a path in a tree, in which each
    latent is one level. Training draws joint samples, because with one sample dimension per latent the numbers of
    samples multiply. With ``ScoreFunction(critic=Critic(...), lam=...)``, the cost of each latent includes the
    predicted cost of its successors. Codes and embeddings follow the most probable path.

    Parameters
    ----------
    categories : Sequence[int]
        Number of categories of each latent.
    hidden : Sequence[int]
        Widths of the encoder's layers; the decoder mirrors them.
    dropout : float
        Dropout probability in the decoder.
    encoder_dropout : float or None
        Dropout probability in the encoder. None: as in the decoder.
    estimator : Estimator or "auto"
        Gradient estimator, of which each latent has a copy. ``"auto"``: score function with leave-one-out baseline.
    objective : Objective or None
        As in :class:`VAE`. None: the ELBO with 4 joint samples.
    features, likelihood, covariates, learning_rate, weight_decay, encoder_covariates
        As in :class:`VAE`.

    Raises
    ------
    ConfigError
        If there is no latent, or one sample dimension per latent would need too many evaluations.

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
        encoder_dropout: float | None = None,
        estimator: Estimator | Literal["auto"] = "auto",
        objective: Objective | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
        encoder_covariates: bool = False,
    ) -> None:
        latents: dict[str, Latent] = {}
        for count in categories:
            latent = Categorical(count, learned_prior=True, estimator=estimator, parents=list(latents))
            latents[f"z{len(latents) + 1}"] = latent
        encoder, decoder = mirrored_mlps(hidden, encoder_dropout, dropout)
        training = (objective or ELBO(num_samples=4), learning_rate, weight_decay, None, encoder_covariates)
        super().__init__(features, encoder, latents, decoder, likelihood, covariates, *training)


@final
class HierarchicalVAE(VAE):
    r"""VAE with Gaussian levels ``z1``, ``z2``, ..., in which each level depends on the next higher one.

    .. math:: p(x, z) = p(z_L) \prod_{l < L} p(z_l | z_{l + 1})\; p(x | z_1)

    The decoder sees ``z1`` only, so that a higher level describes an observation more coarsely. Each prior is a network
    with one layer. With ``top_down`` the posterior of a level depends on the sample of the next higher one,
    :math:`q(z_l | x, z_{l + 1})`, otherwise on that of the next lower one, :math:`q(z_l | x, z_{l - 1})`. The KL
    divergence of each level is logged as ``kl_z1``, ``kl_z2``, ... It is analytic given the level above, except from
    bottom to top for all levels but the highest, whose log ratio is sampled. The gradients are pathwise.

    Sønderby, Raiko, Maaløe, Sønderby and Winther (2016), Ladder Variational Autoencoders.

    Parameters
    ----------
    dims : Sequence[int]
        Number of dimensions of each level, from ``z1`` upwards.
    top_down : bool
        Whether the posterior of a level depends on the next higher one, or on the next lower one.
    hidden : Sequence[int]
        Widths of the encoder's layers; the decoder mirrors them.
    dropout : float
        Dropout probability in the decoder.
    encoder_dropout : float or None
        Dropout probability in the encoder. None: as in the decoder.
    estimator : Estimator or "auto"
        Gradient estimator, of which each level has a copy.
    features, likelihood, covariates, objective, learning_rate, weight_decay, encoder_covariates
        As in :class:`VAE`.

    Raises
    ------
    ConfigError
        If ``dims`` has fewer than two levels, or one of them does not have a dimension.

    Examples
    --------
    >>> from vaekit.likelihoods import Bernoulli
    >>> model = HierarchicalVAE(64, Bernoulli(), dims=[8, 4])
    >>> {name: (latent.size, latent.parents) for name, latent in model.latents.items()}
    {'z1': (8, ('z2',)), 'z2': (4, ())}
    >>> model.networks.decoded
    ('z1',)
    """

    def __init__(
        self,
        features: int,
        likelihood: Likelihood,
        covariates: int = 0,
        dims: Sequence[int] = (10, 5),
        top_down: bool = True,
        hidden: Sequence[int] = (128,),
        dropout: float = 0.1,
        encoder_dropout: float | None = None,
        estimator: Estimator | Literal["auto"] = "auto",
        objective: Objective | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
        encoder_covariates: bool = False,
    ) -> None:
        if len(dims) < 2:
            raise ConfigError(f"HierarchicalVAE: dims={list(dims)} must have two levels at least. Or use GaussianVAE.")
        latents: dict[str, Latent] = {}
        for level, dim in enumerate(dims, start=1):
            parents = [f"z{level + 1}"] if level < len(dims) else []
            conditional = bool(parents) if top_down else [f"z{level - 1}"][: level - 1]
            decoded = None if level == 1 else False
            latents[f"z{level}"] = Gaussian(dim, parents, estimator, conditional, decoded)
        encoder, decoder = mirrored_mlps(hidden, encoder_dropout, dropout)
        training = (objective, learning_rate, weight_decay, None, encoder_covariates)
        super().__init__(features, encoder, latents, decoder, likelihood, covariates, *training)
