"""Component of a mixture prior, with a closed-form posterior."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent
from typing_extensions import override

from vaekit.distributions import OneHotCategorical
from vaekit.distributions.divergence import analytic_divergence
from vaekit.estimators import Enumerate, Estimator
from vaekit.exceptions import ConfigError
from vaekit.latents.discrete import OneHotLatent
from vaekit.latents.kmeans_mixture import kmeans_mixture
from vaekit.latents.latent import Latent
from vaekit.latents.prior_start import PriorStart


class MixtureComponent(OneHotLatent):
    r"""The component of the mixture prior of its only child, with the optimal posterior instead of a posterior head.

    For a child z such as ``Gaussian(dim, parents=["y"])``, the posterior of y maximizes the ELBO:

    .. math:: q(y | x) \propto p(y)\, e^{-\mathrm{KL}(q(z | x) \,\|\, p(z | y))}, \quad
              \mathrm{KL}_y + E_{q(y | x)}[\mathrm{KL}_z]
              = -\log \sum_y p(y)\, e^{-\mathrm{KL}(q(z | x) \,\|\, p(z | y))}

    The sum over y is exact. At this maximum the gradient through q(y given x) vanishes (envelope theorem). The decoder
    does not see y. A code is therefore a region of the latent space, which the posterior cannot contradict.

    Training starts with a standard normal prior of z and equal weights. After ``start_fraction`` of all steps, k-means
    on the posterior means of the training data sets the weights, means and standard deviations of the components (see
    :func:`vaekit.latents.kmeans_mixture.kmeans_mixture`). From then on, they are learned together with the networks.
    Components that are learned from the first step compete before the latent space has a structure, and several of
    them stay unused.

    Parameters
    ----------
    categories : int
        Number K of components. Their probabilities are learned.
    start_fraction : float
        Fraction of all training steps, in [0, 1), before k-means sets the components. 0: the components are learned
        from random ones from the first step, without k-means.

    Raises
    ------
    ConfigError
        If an argument is out of its range; when the model is created, if the latent does not have exactly one child,
        or the child has other parents, depends on its parents through its posterior, too, or does not have an analytic
        KL divergence; at the start of training, if ``start_fraction`` is positive and the number of steps is not
        known, or there are fewer training observations than components.

    Notes
    -----
    Jiang, Zheng, Tan, Tang and Zhou (2017), Variational Deep Embedding: An Unsupervised and Generative Approach to
    Clustering. They use the posterior of y at samples of z, and also start the components at a mixture that was fitted
    to a latent space without clusters.

    Examples
    --------
    >>> from vaekit import MixedVAE
    >>> from vaekit.latents import Gaussian
    >>> from vaekit.likelihoods import Poisson
    >>> latents = {"y": MixtureComponent(3), "z": Gaussian(2, parents=["y"])}
    >>> model = MixedVAE(5, Poisson(), latents=latents)
    >>> model.latents["y"].posterior(torch.zeros(4, 128)).mean.shape
    torch.Size([4, 1, 3])
    """

    started: Tensor
    _child: tuple[Latent, ...] = ()  # in a tuple, so that the child is not a submodule of two modules

    def __init__(self, categories: int, start_fraction: float = 0.4) -> None:
        if categories < 2:
            raise ConfigError(f"MixtureComponent: categories={categories} must be at least 2.")
        if not 0 <= start_fraction < 1:
            raise ConfigError(
                f"MixtureComponent: start_fraction={start_fraction} must be at least 0 and below 1. It is a fraction "
                "of all training steps."
            )
        super().__init__(categories, "auto")
        self.state_shape, self.start_fraction = (1, categories), start_fraction

    @override
    def build_layers(self, in_features: int, parent_size: int | None) -> None:
        self.in_features = in_features
        self.prior_logits = nn.Parameter(torch.zeros(self.state_shape))
        self.register_buffer("started", torch.zeros((), dtype=torch.uint8))

    @override
    def example_posterior(self, in_features: int) -> Distribution:
        return self.prior(None, self.prior_logits).expand(torch.Size([1]))

    @override
    def choose_estimator(self, q: Distribution, num_evaluations: int, joint: bool) -> Estimator:
        return super().choose_estimator(q, num_evaluations, joint) if joint else Enumerate()

    @override
    def connect(self, name: str, children: Mapping[str, Latent]) -> None:
        if len(children) != 1:
            names = f"{len(children)}: {', '.join(map(repr, children))}" if children else "none"
            raise ConfigError(
                f"latent {name!r}: a MixtureComponent must have exactly one child, but it has {names}. Add a child "
                f"such as Gaussian(20, parents=[{name!r}]), or use Categorical."
            )
        ((child_name, child),) = children.items()
        if child.parents != (name,) or child.posterior_parents:
            reason = "its posterior depends on other latents" if child.posterior_parents else "it has other parents"
            raise ConfigError(
                f"latent {name!r}: the child {child_name!r} of a MixtureComponent must have a mixture prior with one "
                f"component per category, but is a {type(child).__name__} with parents={list(child.parents)}: {reason}."
                f" Use a child such as Gaussian(20, parents=[{name!r}]), or replace the parent by a Categorical."
            )
        q = child.example_posterior(self.in_features)
        if analytic_divergence(q, self._components(child, 1)) is None:
            raise ConfigError(
                f"latent {name!r}: the child {child_name!r} of a MixtureComponent must have an analytic KL divergence, "
                f"but that of {type(child).__name__} has no formula. Use Gaussian(20, parents=[{name!r}]), or replace "
                "the parent by a Categorical."
            )
        self._child = (child,)

    def _components(self, child: Latent, rank: int) -> Distribution:
        """Return p(z given y) of each category, batch shape ``[categories, 1, ...]`` with ``rank`` ones."""
        categories = torch.eye(self.size, dtype=self.prior_logits.dtype, device=self.prior_logits.device)
        return child.prior(categories.unflatten(0, (self.size, *[1] * rank)), categories)

    @override
    def posterior(self, h: Tensor) -> Distribution:
        (child,) = self._child
        q = child.posterior(h)
        kl = analytic_divergence(q, self._components(child, len(q.batch_shape)))
        assert kl is not None  # connect() has checked it
        return Independent(OneHotCategorical(logits=self.prior_logits - kl.movedim(0, -1).unsqueeze(-2)), 1)

    @override
    def prior(self, parent: Tensor | None, like: Tensor) -> Distribution:
        return Independent(OneHotCategorical(logits=self.prior_logits), 1)

    @property
    @override
    def pending_start(self) -> PriorStart | None:
        return self if self.start_fraction and not self.started else None

    @property
    def num_states(self) -> int:
        """Number of components."""
        return self.size

    def hold_prior(self) -> list[nn.Parameter]:
        """Set the prior of the child to a standard normal, and return the parameters of weights and components."""
        loc = self.prior_logits.new_zeros(self.size, self._child[0].size)
        return self._set_mixture(torch.zeros_like(self.prior_logits[0]), loc, torch.ones_like(loc))

    def fit_prior(self, features: Iterable[Tensor], seed: int) -> tuple[Tensor, ...]:
        """Return log-weights, means and standard deviations of the components from k-means on the posterior means.

        Parameters
        ----------
        features : Iterable[Tensor], each of shape (batch, width)
            Encoder features of the training data.
        seed : int
            Seed of k-means.
        """
        posteriors = [self._child[0].posterior(h) for h in features]
        mean, variance = (torch.cat(parts).cpu().double().numpy() for parts in
                          ([q.mean for q in posteriors], [q.variance for q in posteriors]))  # fmt: skip
        return tuple(torch.from_numpy(part) for part in kmeans_mixture(mean, variance, self.size, seed))

    def set_prior(self, parameters: tuple[Tensor, ...]) -> None:
        """Set the mixture to the result of :meth:`fit_prior`."""
        self._set_mixture(*(part.to(self.prior_logits) for part in parameters))
        self.started.fill_(1)

    def _set_mixture(self, log_weight: Tensor, loc: Tensor, scale: Tensor) -> list[nn.Parameter]:
        with torch.no_grad():
            self.prior_logits.copy_(log_weight[None])
        return [self.prior_logits, *self._child[0].set_components(loc, scale)]
