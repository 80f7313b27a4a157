"""Training objectives of variational autoencoders."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from typing_extensions import override

from vaekit._core.components import Component
from vaekit.distributions.divergence import analytic_divergence, kl_or_estimate
from vaekit.estimators import Estimator
from vaekit.exceptions import ConfigError
from vaekit.graph import importance_weighted
from vaekit.graph.cost_terms import CostTerm
from vaekit.graph.fold import Estimate, fold
from vaekit.graph.sampling import GraphSample, check_joint

__all__ = ["ELBO", "IWAE", "Objective"]


class LatentPrior(NamedTuple):
    """Prior of a latent, for its KL divergence.

    Attributes
    ----------
    prior : Distribution
        p(z given parents) at the sampled values of the parents.
    parents : tuple[str, ...]
        Names of the latents that prior and posterior depend on.

    Examples
    --------
    >>> import torch
    >>> from torch.distributions import Normal
    >>> LatentPrior(Normal(torch.zeros(2), 1.0), parents=("y",)).parents
    ('y',)
    """

    prior: Distribution
    parents: tuple[str, ...]


class Objective(Component, nn.Module, ABC):
    """Base class of the objectives, which a model maximizes.

    Parameters
    ----------
    beta : float
        Weight of the KL divergences after the warm-up.
    warmup : float
        Fraction of all training steps, in 0..1, in which the weight increases linearly from 0 to ``beta``.

    Attributes
    ----------
    num_samples : int or None
        Number of joint samples of the latents. None: each latent has its own sample dimension.

    Raises
    ------
    ConfigError
        If ``beta`` is negative, or ``warmup`` is outside 0..1.

    Examples
    --------
    >>> import vaekit
    >>> objective = vaekit.objectives.ELBO(beta=2.0, warmup=0.5)
    >>> [objective.kl_weight(step, total_steps=100) for step in (0, 25, 50, 100)]
    [0.0, 1.0, 2.0, 2.0]
    """

    num_samples: int | None = None

    def __init__(self, beta: float = 1.0, warmup: float = 0.0) -> None:
        super().__init__()
        name = type(self).__name__
        if not beta >= 0:
            raise ConfigError(f"{name}: beta={beta} must not be negative.")
        if not 0 <= warmup <= 1:
            raise ConfigError(
                f"{name}: warmup={warmup} must be a fraction of all steps in 0..1; above 1 the KL weight would never "
                "reach beta."
            )
        self.beta, self.warmup = beta, warmup

    def check_steps(self, total_steps: float) -> None:
        """Raise a ConfigError if there is a warm-up, and the number of steps is not finite."""
        if self.warmup and not 0 < total_steps < float("inf"):
            raise ConfigError(
                f"{type(self).__name__}: warmup={self.warmup} is a fraction of all training steps, but their number is "
                f"{total_steps}. Set trainer.max_epochs or trainer.max_steps."
            )

    def kl_weight(self, step: int, total_steps: float) -> float:
        """Return the weight of the KL divergences at a training step."""
        return self.beta * min(1.0, step / (self.warmup * total_steps)) if self.warmup else self.beta

    @abstractmethod
    def check_estimators(self, estimators: Mapping[str, Estimator]) -> None:
        """Raise an error if the objective does not support an estimator."""

    def prepare(self, sample: GraphSample) -> GraphSample:
        """Prepare sampled values before the model decodes them. The default returns them unchanged."""
        return sample

    @abstractmethod
    def compute_loss(
        self,
        sample: GraphSample,
        reconstruction: CostTerm,
        priors: Mapping[str, LatentPrior],
        kl_weight: float,
        check_paths: bool,
    ) -> Estimate:
        """Return the loss and its terms.

        Parameters
        ----------
        sample : GraphSample
            Values of the latents, from :meth:`prepare`.
        reconstruction : CostTerm
            -log p(x given z) at these values.
        priors : Mapping[str, LatentPrior]
            Prior of each latent.
        kl_weight : float
            Weight of the KL divergences in this step.
        check_paths : bool
            Whether to check that the cost has the gradient paths that the estimators require.

        Returns
        -------
        Estimate
            ``total`` of shape (batch,) in nats, lower is better; ``terms``: those of the negative ELBO,
            ``reconstruction`` and the unweighted ``kl_<name>`` of each latent.
        """


class ELBO(Objective):
    r"""The evidence lower bound, optionally with weighted KL divergences and free bits.

    .. math:: \mathcal{L} = E_q[\log p(x | z)] - \beta_t \sum_l \max(\lambda, \mathrm{KL}_l)

    The metric ``elbo`` is always the unmodified ELBO, which is also the objective by default. KL divergences are
    analytic if torch has a formula. A latent with ``stick_the_landing`` uses log q(z) - log p(z) at its sample.

    Kingma and Welling (2014), Auto-Encoding Variational Bayes; Higgins et al. (2017), beta-VAE; Kingma et al. (2016),
    Improved Variational Inference with Inverse Autoregressive Flow (free bits); Sønderby et al. (2016), Ladder
    Variational Autoencoders (warm-up).

    Parameters
    ----------
    beta, warmup : float
        Weight of the KL divergences after the warm-up, and the fraction of all training steps, in 0..1, in which it
        increases linearly from 0.
    free_bits : float
        :math:`\lambda`: KL divergence of each latent in nats, averaged over the mini-batch, below which it has no
        cost.
    num_samples : int or None
        Number of joint samples, each with one sample per latent regardless of its estimator's ``num_samples``; for
        latents that depend on one another. None: each latent has its own sample dimension with
        ``estimator.num_samples`` samples, so that the numbers multiply.

    Raises
    ------
    ConfigError
        If ``beta`` or ``free_bits`` is negative, ``warmup`` is outside 0..1, or ``num_samples`` is below 1.

    Examples
    --------
    >>> ELBO(warmup=0.5).kl_weight(step=25, total_steps=100)
    0.5
    """

    def __init__(
        self, beta: float = 1.0, warmup: float = 0.0, free_bits: float = 0.0, num_samples: int | None = None
    ) -> None:
        super().__init__(beta, warmup)
        if not free_bits >= 0:
            raise ConfigError(f"ELBO: free_bits={free_bits} must not be negative.")
        if num_samples is not None and num_samples < 1:
            raise ConfigError(f"ELBO: num_samples={num_samples} must be at least 1, or None.")
        self.free_bits, self.num_samples = free_bits, num_samples

    def check_estimators(self, estimators: Mapping[str, Estimator]) -> None:
        """Raise an error if an estimator does not support joint samples (EstimatorError) or free bits (ConfigError)."""
        for name, estimator in estimators.items():
            if self.num_samples is not None:
                check_joint(name, estimator, self.num_samples)
            if self.free_bits and estimator.stick_the_landing:
                raise ConfigError(
                    f"ELBO: free_bits={self.free_bits} cannot be combined with stick_the_landing of latent {name!r}, "
                    "which drops a part of the gradient of the KL divergence. Use one of them."
                )

    def apply_free_bits(self, kl: Tensor, weight: Tensor) -> Tensor:
        """Return the KL divergence ``[*sample, batch]`` of a latent, or the constant floor if its mean is below.

        ``weight`` is the weight of each sample, with sum 1.
        """
        if not self.free_bits:
            return kl
        mean = (weight * kl.detach()).sum() / kl.shape[-1]
        return torch.where(mean > self.free_bits, kl, self.free_bits)

    @override
    def compute_loss(
        self,
        sample: GraphSample,
        reconstruction: CostTerm,
        priors: Mapping[str, LatentPrior],
        kl_weight: float,
        check_paths: bool,
    ) -> Estimate:
        terms, unweighted = {"reconstruction": reconstruction}, {}
        for name, (prior, names) in priors.items():
            node, sticks = sample.samples[name], sample.estimators[name].stick_the_landing
            # the formula is the mean over z for fixed parents, which must not depend on z in q
            has_formula = not sticks and name not in sample.ancestors(names)
            analytic = analytic_divergence(node.q, prior) if has_formula else None
            if analytic is None:
                kl, names = node.q.log_prob(node.value) - prior.log_prob(node.value), (*names, name)
            else:
                kl = analytic
            kl = kl.to(reconstruction.value.dtype)
            mean = (sample.joint_weight(names) * kl.detach()).flatten(0, -2).sum(0) if kl.dim() > 1 else kl.detach()
            unweighted[f"kl_{name}"] = mean
            value = kl_weight * (self.apply_free_bits(kl, sample.joint_weight(names)) if self.free_bits else kl)
            if sticks and kl_weight != 1:
                # the estimator subtracts the whole score, of which this term contains the fraction kl_weight
                assert node.log_prob is not None
                value = value + (1 - kl_weight) * (node.log_prob - node.log_prob.detach())
            terms[f"kl_{name}"] = CostTerm(value, names)
        result = fold(sample, terms, check_paths=check_paths)
        return result._replace(terms={"reconstruction": result.terms["reconstruction"], **unweighted})


class IWAE(Objective):
    r"""The importance-weighted bound from K joint samples of the latents.

    .. math:: \mathcal{L}_K = E\Big[\log \frac{1}{K} \sum_k \frac{p(x | z_k)\, p(z_k)}{q(z_k | x)}\Big]

    Gaussian latents have the doubly reparameterized gradient (DReG), discrete ones VIMCO: see
    ``vaekit.graph.importance_weighted``. With a ``beta`` other than 1, p(z) / q(z given x) is raised to this power.

    Burda, Grosse and Salakhutdinov (2016), Importance Weighted Autoencoders.

    Parameters
    ----------
    num_samples : int
        K, at least 2.
    beta, warmup : float
        As in :class:`ELBO`.

    Raises
    ------
    ConfigError
        If ``num_samples`` is less than 2.

    Examples
    --------
    >>> import torch, vaekit
    >>> objective = vaekit.objectives.IWAE(num_samples=5)
    >>> model = vaekit.GaussianVAE(64, vaekit.likelihoods.Bernoulli(), objective=objective)
    >>> model.loss(vaekit.Batch(torch.rand(8, 64))).total.shape
    torch.Size([8])
    """

    def __init__(self, num_samples: int = 5, beta: float = 1.0, warmup: float = 0.0) -> None:
        super().__init__(beta, warmup)
        if num_samples < 2:
            raise ConfigError(f"IWAE: num_samples={num_samples} must be at least 2; with 1 it is the ELBO.")
        self.num_samples = num_samples

    @override
    def check_estimators(self, estimators: Mapping[str, Estimator]) -> None:
        for name, estimator in estimators.items():
            importance_weighted.check_estimator(name, estimator)

    @override
    def prepare(self, sample: GraphSample) -> GraphSample:
        return importance_weighted.prepare(sample)

    def compute_loss(
        self,
        sample: GraphSample,
        reconstruction: CostTerm,
        priors: Mapping[str, LatentPrior],
        kl_weight: float,
        check_paths: bool,
    ) -> Estimate:
        """Return the negative bound; the terms belong to the ELBO at the same samples."""
        log_joint = {"reconstruction": reconstruction._replace(value=-reconstruction.value)}
        terms = {"reconstruction": reconstruction.value.detach().mean(0)}
        for name, (prior, parents) in priors.items():
            node = sample.samples[name]
            log_joint[f"prior of {name}"] = CostTerm(kl_weight * prior.log_prob(node.value), (*parents, name))
            with torch.no_grad():
                terms[f"kl_{name}"] = kl_or_estimate(node.q, prior, node.value).mean(0)
        parts = importance_weighted.check_terms(sample, log_joint, check_paths).values()
        log_weight = functools.reduce(torch.add, (part.value for part in parts))
        return Estimate(-importance_weighted.combine(sample, log_weight, kl_weight), terms, sample.samples)
