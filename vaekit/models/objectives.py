"""Training objectives of variational autoencoders."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.distributions.kl import kl_divergence

from vaekit._core.components import Component
from vaekit.estimators import Estimator
from vaekit.exceptions import ConfigError
from vaekit.graph import importance_weighted
from vaekit.graph.cost_terms import CostTerm
from vaekit.graph.fold import Estimate, fold
from vaekit.graph.sampling import GraphSample, check_joint


class LatentPrior(NamedTuple):
    """What the KL divergence of one latent is made of.

    Attributes
    ----------
    prior
        p(z | parents) at the parents' drawn values.
    parents
        Names of the latents that prior and posterior depend on.
    """

    prior: Distribution
    parents: tuple[str, ...]


class Objective(Component, nn.Module, ABC):
    """What a model maximises, given what it drew.

    Parameters
    ----------
    beta
        Weight of the KL divergences after the warm-up.
    warmup
        Share of all training steps over which the weight rises linearly from 0 to ``beta``, in 0..1.

    Attributes
    ----------
    num_samples
        Joint trajectories to draw; None where each latent draws by itself.

    Raises
    ------
    ConfigError
        If ``beta`` is negative, or the warm-up would never reach its end.
    """

    num_samples: int | None = None

    def __init__(self, beta: float = 1.0, warmup: float = 0.0) -> None:
        super().__init__()
        name = type(self).__name__
        if not beta >= 0:
            raise ConfigError(f"{name}: beta is {beta}; it must not be negative")
        if not 0 <= warmup <= 1:
            raise ConfigError(
                f"{name}: warmup is {warmup}, a share of all steps in 0..1; above 1 the KL weight would never reach "
                "beta"
            )
        self.beta, self.warmup = beta, warmup

    def check_steps(self, total_steps: float) -> None:
        """Raise an error if a warm-up is asked for and the number of steps is not finite."""
        if self.warmup and not 0 < total_steps < float("inf"):
            raise ConfigError(
                f"{type(self).__name__}: warmup={self.warmup} is a share of all training steps, whose number is "
                f"{total_steps}; the KL weight would never reach its end: set trainer.max_epochs or trainer.max_steps"
            )

    def kl_weight(self, step: int, total_steps: float) -> float:
        """Return the weight of the KL divergences at a training step."""
        if not self.warmup:
            return self.beta
        return self.beta * min(1.0, step / (self.warmup * total_steps))

    @abstractmethod
    def check_estimators(self, estimators: Mapping[str, Estimator]) -> None:
        """Raise an error if an estimator cannot serve this objective."""

    def prepare(self, drawn: GraphSample) -> GraphSample:
        """Make the drawn values ready, before the model decodes them; here, nothing."""
        return drawn

    @abstractmethod
    def compute_loss(
        self,
        drawn: GraphSample,
        reconstruction: CostTerm,
        divergences: Mapping[str, LatentPrior],
        kl_weight: float,
        check_paths: bool,
    ) -> Estimate:
        """Return the loss and its terms.

        Parameters
        ----------
        drawn
            Values of the latents, from :meth:`prepare`.
        reconstruction
            -log p(x | z) at these values.
        divergences
            Of each latent.
        kl_weight
            Of this step.
        check_paths
            Whether to look for the gradient paths that estimators rely on.

        Returns
        -------
        Result
            ``total`` ``[batch]`` in nats, lower is better; ``terms``: ``reconstruction`` and the unweighted
            ``kl_<name>`` of each latent, the terms of the true bound.
        """


class ELBO(Objective):
    r"""The evidence lower bound, its KL divergences weighted and floored as asked.

    .. math:: \mathcal{L} = E_q[\log p(x | z)] - \beta_t \sum_l \max(\lambda, \mathrm{KL}_l)

    With the defaults it is the true bound. What is logged as ``elbo`` is always the true bound. A divergence is
    analytic where it is known; for a latent that sticks the landing it is log q(z) - log p(z) at the draw.

    Kingma and Welling (2014), Auto-Encoding Variational Bayes; Higgins et al. (2017), beta-VAE; Kingma et al. (2016),
    Improved Variational Inference with Inverse Autoregressive Flow (free bits); Sønderby et al. (2016), Ladder
    Variational Autoencoders (warm-up).

    Parameters
    ----------
    beta
        Weight of the KL divergences after the warm-up.
    warmup
        Share of all training steps over which the weight rises linearly from 0 to ``beta``, in 0..1.
    free_bits
        lambda: nats of KL divergence of each latent, averaged over the batch, that cost nothing more to use.
    num_samples
        None: each latent has its own axis of ``estimator.num_samples`` rows, so that costs multiply. K: K joint
        trajectories, a single draw of each latent in each (its estimator's own number does not count then): for
        latents that depend on one another.

    Raises
    ------
    ConfigError
        If ``beta`` or ``free_bits`` is negative, the warm-up would never reach its end, or ``num_samples`` is below 1.

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
            raise ConfigError(f"ELBO: free_bits is {free_bits}; it must not be negative")
        if num_samples is not None and num_samples < 1:
            raise ConfigError(f"ELBO: num_samples is {num_samples}; it must be at least 1, or None")
        self.free_bits, self.num_samples = free_bits, num_samples

    def check_estimators(self, estimators: Mapping[str, Estimator]) -> None:
        """Raise an error if an estimator cannot draw joint trajectories, or free bits meet one that sticks the landing.

        Raises
        ------
        ConfigError, EstimatorError
            The former for free bits, the latter for joint trajectories.
        """
        for name, estimator in estimators.items():
            if self.num_samples is not None:
                check_joint(name, estimator, self.num_samples)
            if self.free_bits and estimator.stick_the_landing:
                raise ConfigError(
                    f"ELBO: free_bits is {self.free_bits} and latent {name!r} has stick_the_landing, which drops a "
                    "part of the KL divergence's gradient that a floor would have to keep: use one of them"
                )

    def apply_free_bits(self, kl: Tensor, share: Tensor) -> Tensor:
        """Return the KL divergence ``[*rows, batch]`` of one latent with its free bits.

        Where its mean is below the floor, it is the floor, and has no gradient. ``share`` weighs the rows: it sums
        to 1 over them.
        """
        if not self.free_bits:
            return kl
        mean = (share * kl.detach()).sum() / kl.shape[-1]
        return torch.where(mean > self.free_bits, kl, self.free_bits)

    def compute_loss(
        self,
        drawn: GraphSample,
        reconstruction: CostTerm,
        divergences: Mapping[str, LatentPrior],
        kl_weight: float,
        check_paths: bool,
    ) -> Estimate:
        """Return the weighted bound by the fold (see the base class)."""
        terms, unweighted = {"reconstruction": reconstruction}, {}
        like = reconstruction.value
        for name, (prior, names) in divergences.items():
            draw = drawn.samples[name]
            analytic = None if drawn.estimators[name].stick_the_landing else analytic_divergence(draw.q, prior)
            if analytic is None:
                kl, names = draw.q.log_prob(draw.value) - prior.log_prob(draw.value), (*names, name)
            else:
                kl = analytic
            kl = kl.to(like.dtype)
            rows = kl.dim() > 1
            unweighted[f"kl_{name}"] = (
                (drawn.joint_weight(names) * kl.detach()).flatten(0, -2).sum(0) if rows else kl.detach()
            )
            value = kl_weight * (self.apply_free_bits(kl, drawn.joint_weight(names)) if self.free_bits else kl)
            if drawn.estimators[name].stick_the_landing and kl_weight != 1:
                # the estimator takes away the whole score, of which this term has the share kl_weight
                assert draw.log_prob is not None
                value = value + (1 - kl_weight) * (draw.log_prob - draw.log_prob.detach())
            terms[f"kl_{name}"] = CostTerm(value, names)
        result = fold(drawn, terms, check_paths=check_paths)
        return result._replace(terms={"reconstruction": result.terms["reconstruction"], **unweighted})


class IWAE(Objective):
    r"""The importance-weighted bound on K joint trajectories of the latents.

    .. math:: \mathcal{L}_K = E\Big[\log \frac{1}{K} \sum_k \frac{p(x | z_k)\, p(z_k)}{q(z_k | x)}\Big]

    Gaussian latents have the doubly reparameterized gradient (DReG), discrete ones VIMCO: see
    ``vaekit.graph.importance_weighted``. With a ``beta`` other than 1, p(z) / q(z | x) is raised to it.

    Burda, Grosse and Salakhutdinov (2016), Importance Weighted Autoencoders.

    Parameters
    ----------
    num_samples
        K, at least 2.
    beta, warmup
        As in :class:`ELBO`.

    Raises
    ------
    ConfigError
        If ``num_samples`` is less than 2.
    """

    def __init__(self, num_samples: int = 5, beta: float = 1.0, warmup: float = 0.0) -> None:
        super().__init__(beta, warmup)
        if num_samples < 2:
            raise ConfigError(f"IWAE: num_samples is {num_samples}; at least 2 are needed (1 is the ELBO)")
        self.num_samples = num_samples

    def check_estimators(self, estimators: Mapping[str, Estimator]) -> None:
        """Raise an error if an estimator serves linear expectations only."""
        for name, estimator in estimators.items():
            importance_weighted.check_estimator(name, estimator)

    def prepare(self, drawn: GraphSample) -> GraphSample:
        """Prepare pathwise values for the doubly reparameterized gradient."""
        return importance_weighted.prepare(drawn)

    def compute_loss(
        self,
        drawn: GraphSample,
        reconstruction: CostTerm,
        divergences: Mapping[str, LatentPrior],
        kl_weight: float,
        check_paths: bool,
    ) -> Estimate:
        """Return minus the importance-weighted bound; the terms are those of the ELBO on the same draws."""
        log_joint = {"reconstruction": reconstruction._replace(value=-reconstruction.value)}
        terms = {"reconstruction": reconstruction.value.detach().mean(0)}
        for name, (prior, parents) in divergences.items():
            draw = drawn.samples[name]
            log_joint[f"prior of {name}"] = CostTerm(kl_weight * prior.log_prob(draw.value), (*parents, name))
            with torch.no_grad():
                terms[f"kl_{name}"] = kl_or_estimate(draw.q, prior, draw.value).mean(0)
        parts = importance_weighted.check_terms(drawn, log_joint, check_paths).values()
        summed = functools.reduce(torch.add, (part.value for part in parts))
        total = -importance_weighted.combine(drawn, summed, kl_weight)
        return Estimate(total, terms, drawn.samples)


def kl_or_estimate(q: Distribution, p: Distribution, value: Tensor) -> Tensor:
    """Return KL(q || p): analytic where torch knows it, else from a draw ``value`` of ``q``."""
    analytic = analytic_divergence(q, p)
    return q.log_prob(value) - p.log_prob(value) if analytic is None else analytic


def analytic_divergence(q: Distribution, p: Distribution) -> Tensor | None:
    """Return KL(q || p), or None where torch does not know it."""
    if len(p.batch_shape) < len(q.batch_shape):
        # torch's KL of Bernoulli variables does not broadcast
        p = p.expand(torch.broadcast_shapes(p.batch_shape, q.batch_shape))
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return None
