"""Variational autoencoder as a Lightning module: a composition of parts, without variants."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from vaekit._core.components import Component
from vaekit.batch import Batch
from vaekit.estimators import Estimator
from vaekit.exceptions import ConfigError
from vaekit.graph.fold import Estimate
from vaekit.latents import Latent
from vaekit.likelihoods import Likelihood
from vaekit.models.checkpoint import SafeLoading
from vaekit.models.loss import batch_loss, negative_elbo
from vaekit.models.objectives import ELBO, Objective
from vaekit.models.regularizers import Regularizer
from vaekit.models.training_hooks import TrainingHooks
from vaekit.models.vae_networks import VAENetworks
from vaekit.models.weight_memory import MemoryBudget
from vaekit.networks import Network


class VAE(Component, SafeLoading, TrainingHooks):  # type: ignore[misc]  # Lightning's load_from_checkpoint
    r"""A variational autoencoder, composed of an encoder, latents, a decoder, a likelihood and an objective.

    Each training step minimizes

    .. math:: E_{q(z | x)}\Big[-\log p(x | z) + \beta_t \sum_l \mathrm{KL}_l\Big]

    through :func:`vaekit.expectation`. Each latent has its own gradient estimator.

    Parameters
    ----------
    features, covariates : int
        Number of observed variables, and width of the covariates. Both come from the data.
    encoder, decoder : Network
        Networks; the model determines their input sizes.
    latents : dict[str, Latent]
        Latent variables by name. A parent acts through the prior of its child, or through the posterior, too: see
        :class:`vaekit.latents.Latent`.
    likelihood : Likelihood
        Distribution of the observations.
    objective : Objective or None
        Objective to maximize. None: the ELBO.
    learning_rate, weight_decay : float
        Learning rate of Adam, which decreases to 0 along a cosine, and decoupled decay of the weight matrices.
    regularizer : Regularizer or None
        Penalty that training adds to the loss. None: no penalty.
    encoder_covariates : bool
        Whether the encoder sees the covariates, like the decoder. Without them, the latents of cells from different
        batches agree better.
    labels : dict[str, list[str]] or None
        Names of the categories of a latent with an ``observed_key``, by this key. They come from the data
        (``data.observed_categories``), too.

    Raises
    ------
    ConfigError, EstimatorError
        If the parts do not fit together, or an estimator does not support its latent.

    Examples
    --------
    A Gaussian latent for 64 pixels, from parts:

    >>> import torch, vaekit
    >>> from vaekit.latents import Gaussian
    >>> from vaekit.networks import MLP
    >>> model = vaekit.VAE(64, MLP([32]), {"z": Gaussian(2)}, MLP([32]), vaekit.likelihoods.Bernoulli())
    >>> model.loss(vaekit.Batch(torch.rand(8, 64))).total.shape  # negative ELBO of each image, in nats
    torch.Size([8])
    """

    def __init__(
        self,
        features: int,
        encoder: Network,
        latents: dict[str, Latent],
        decoder: Network,
        likelihood: Likelihood,
        covariates: int = 0,
        objective: Objective | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-4,
        regularizer: Regularizer | None = None,
        encoder_covariates: bool = False,
        labels: dict[str, list[str]] | None = None,
    ) -> None:
        super().__init__()
        if learning_rate <= 0 or weight_decay < 0:
            raise ConfigError(f"VAE: {learning_rate=} must be positive, and {weight_decay=} must not be negative.")
        self.objective = objective or ELBO()
        joint = self.objective.num_samples is not None
        with MemoryBudget(self.config["init_args"]):
            parts = (features, covariates, encoder, latents, decoder, likelihood, joint, encoder_covariates)
            self.networks = VAENetworks(*parts, labels or {})
        self.objective.check_estimators(self.estimators)
        if regularizer is not None:
            regularizer.check(self.latents)
        self.regularizer, self.learning_rate, self.weight_decay = regularizer, learning_rate, weight_decay
        self.features, self.covariates = features, covariates
        self.data_registry: dict[str, Any] | None = None
        self._paths_checked = False
        self.run_content: dict[str, Any] = {}  # of vaekit.fit, for the report
        config = self.config  # plain data, so that a checkpoint loads with weights_only=True
        self.save_hyperparameters({"_class_path": config["class_path"], **config["init_args"]})

    @property
    def latents(self) -> dict[str, Latent]:
        """The latent variables by name."""
        return self.networks.latents

    @property
    def label_latent(self) -> str | None:
        """Name of the latent whose categories are known for some observations; None if there is none."""
        return self.networks.label_latent

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the categories of :attr:`label_latent`, the unnamed ones included; empty without one."""
        labels = None if self.label_latent is None else self.latents[self.label_latent].labels
        return () if labels is None else labels.names

    @property
    def estimators(self) -> dict[str, Estimator]:
        """The gradient estimator of each latent."""
        return {name: latent.estimator for name, latent in self.latents.items()}

    def posteriors(self, batch: Batch) -> dict[str, Distribution]:
        """Return q(z given x) of each latent, shape ``[batch]``, given the most probable values of its parents."""
        return self.networks.posteriors(self.networks.encode(batch))

    def sample_posterior(self, batch: Batch, num_samples: int) -> dict[str, Tensor]:
        """Sample all latents from their joint posterior, each ``[num_samples, batch, *event]``."""
        return self.networks.sample_posterior(self.networks.encode(batch), num_samples)

    def loss(
        self, batch: Batch, kl_weight: float = 1.0, training: bool = False, objective: Objective | None = None
    ) -> Estimate:
        """Estimate the loss and the terms of the negative ELBO on a mini-batch.

        Parameters
        ----------
        batch, kl_weight : Batch, float
            The mini-batch, and the weight of the KL divergences in the total.
        training : bool
            Whether to use the model's estimators with their relaxations, free bits and the regularizer. If False, the
            total is the negative ELBO (at weight 1), from discrete samples of discrete latents. Known labels of the
            mini-batch are used in training only.
        objective : Objective or None
            Other objective to train with, without the regularizer; its number of joint samples must be the model's.
            None: the model's objective.

        Returns
        -------
        Estimate
            Loss in nats. Its ``terms`` are ``reconstruction`` and the unweighted ``kl_<name>``, and in training also
            ``label_loss`` and ``penalty``, which the ELBO does not contain; each [batch].
        """
        if not training:
            return negative_elbo(self.networks, self.estimators, batch, kl_weight)
        penalty, objective = (None, objective) if objective else (self.regularizer, self.objective)
        if self.label_latent is not None and batch.observed_label is None:
            batch = batch._replace(observed_label=torch.full_like(batch.x[:, 0], -1, dtype=torch.int64))
        options = (objective, kl_weight, penalty, not self._paths_checked)
        result = batch_loss(self.networks, self.estimators, batch, *options)
        self._paths_checked = True
        return result
