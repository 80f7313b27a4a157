"""Discrete latent variables: vectors of categories and of bits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli as BernoulliDistribution
from torch.distributions import Distribution, Independent
from typing_extensions import override

from vaekit.distributions import OneHotCategorical
from vaekit.estimators import Estimator
from vaekit.estimators.discrete_support import get_logits
from vaekit.exceptions import ConfigError
from vaekit.latents.latent import Latent
from vaekit.latents.observed_labels import ObservedLabels


class OneHotLatent(Latent):
    """Base class of the latents whose values are one-hot variables, ``[..., variables, categories]``."""

    discrete = True
    is_categorical = True
    unit = "code"
    event_dim = 2
    state_shape: tuple[int, int]
    learned_prior: bool

    @override
    def build_layers(self, in_features: int, parent_size: int | None) -> None:
        super().build_layers(in_features, parent_size)
        if parent_size is None and self.learned_prior:
            self.prior_logits = nn.Parameter(torch.zeros(self.logits_shape))

    @property
    def logits_shape(self) -> tuple[int, ...]:
        """Shape of the parameter of a learned prior."""
        return self.state_shape

    @override
    def posterior(self, h: Tensor) -> Distribution:
        return self._distribution(self.head_outputs(h))

    @override
    def prior(self, parent: Tensor | None, like: Tensor) -> Distribution:
        if parent is not None:
            return self._distribution(self.prior_outputs(parent, like))
        logits = self.prior_logits if self.learned_prior else like.new_zeros(self.size)
        return self._distribution(logits.flatten())

    def _distribution(self, logits: Tensor) -> Distribution:
        """Return the variables with logits ``[..., size]``."""
        return Independent(OneHotCategorical(logits=self.spread_states(logits, -torch.inf)), 1)

    def spread_states(self, values: Tensor, missing: float) -> Tensor:
        """Return values ``[..., size]`` as ``[..., variables, categories]``, with ``missing`` for impossible states."""
        return values.unflatten(-1, self.state_shape)

    @override
    def state_probabilities(self, summary: Tensor) -> Tensor:
        return self.spread_states(summary, 0.0)

    def summary(self, q: Distribution) -> Tensor:
        """Return the probabilities of the categories, ``[batch, variables * categories]``."""
        return self.flatten(get_logits(q).softmax(-1))

    @override
    def point_estimate(self, q: Distribution) -> Tensor:
        return q.mode

    @override
    def unit_name(self, index: int) -> str:
        return self.state_name(*divmod(index, self.state_shape[1]))


class Categorical(OneHotLatent):
    r"""``variables`` one-hot variables of ``categories`` categories each, independent given the data.

    With ``parents``, posterior and prior depend on their values through a network with one layer each: a level of a
    sequence or tree, in which the decoder sees the parents, too. With ``conditional_posterior=False`` only the prior
    depends on them. The KL divergence given the parents,

    .. math:: \mathrm{KL}\big(q(z_t | x, z_{<t}) \,\|\, p(z_t | z_{<t})\big),

    is analytic; only the parents are sampled.

    Parameters
    ----------
    categories : int or None
        Number of categories per variable.
        With ``observed_key``, it comes from the data and may be omitted.
    variables : int
        Number of variables.
    learned_prior : bool
        Whether the prior probabilities are learned (for clusters of different size) or uniform. With parents they are
        always learned, starting from uniform ones.
    estimator : Estimator or "auto"
        Gradient estimator; ``"auto"`` is an exact sum up to 64 states, otherwise the score function with leave-one-out
        baseline.
    parents, conditional_posterior, decoded
        As in :class:`Latent`. The posterior depends on the parents by default.
    observed_key : str or None
        Column of the data with the known category of some observations, such as cell types. Training clamps the
        variable there, and elsewhere it uses q(y given x) as described in
        :class:`vaekit.latents.observed_labels.ObservedLabels`. The names of the categories come from the data. None:
        the variable is never observed.
    extra : int
        Number of further categories without a name, for types that no label names; requires ``observed_key``.
    label_weight : float
        Weight of -log q(label given x), in nats, in the loss of a labeled observation; requires ``observed_key``.

    Raises
    ------
    ConfigError
        If there are fewer than 2 categories or 1 variable, or an argument is not valid for :class:`Latent`; if
        ``observed_key`` is combined with several variables, or the data contradict ``categories``.

    Notes
    -----
    Kingma, Rezende, Mohamed and Welling (2014), Semi-supervised Learning with Deep Generative Models.

    Examples
    --------
    Three kinds within each of two kinds:

    >>> import torch
    >>> latent = Categorical(3, parents=["kind"])
    >>> _ = latent.build(in_features=8, parent_size=2)
    >>> kind = torch.eye(2)[:, None].expand(2, 5, 2)  # both kinds, for five observations
    >>> latent.posterior(latent.condition_on_parents(torch.zeros(5, 8), kind)).batch_shape
    torch.Size([2, 5])
    >>> latent.prior(kind, kind).mean[0, 0].detach()
    tensor([[0.3333, 0.3333, 0.3333]])

    Classes of digits that are known for the training images, and their style, as in the model M2 of Kingma et al.:

    >>> import vaekit
    >>> data = vaekit.data.ImageData("digits", observed_key="label")
    >>> y = Categorical(observed_key="label")
    >>> z = vaekit.latents.Gaussian(6, parents=["y"], conditional_posterior=True)
    >>> likelihood, labels = vaekit.likelihoods.Bernoulli(), data.observed_categories
    >>> model = vaekit.MixedVAE(data.features, likelihood, latents={"y": y, "z": z}, labels=labels)
    >>> model.label_latent, model.label_names[:3]
    ('y', ('0', '1', '2'))
    """

    conditional_posterior: bool | tuple[str, ...] = True
    kept_arguments = ("categories", "observed_key", "extra")  # the categories come from one of them

    def __init__(
        self,
        categories: int | None = None,
        variables: int = 1,
        learned_prior: bool = False,
        estimator: Estimator | Literal["auto"] = "auto",
        parents: Sequence[str] = (),
        conditional_posterior: bool | Sequence[str] | None = None,
        decoded: bool | None = None,
        observed_key: str | None = None,
        extra: int = 0,
        label_weight: float = 1.0,
    ) -> None:
        if observed_key is None:
            _check_unobserved(categories, extra, label_weight)
        if (categories is not None and categories < 2 - extra) or variables < 1:
            raise ConfigError(
                f"Categorical: categories={categories} must be at least 2, and variables={variables} at least 1."
            )
        if observed_key is not None and variables > 1:
            raise ConfigError(
                f"Categorical: variables={variables} must be 1 with observed_key={observed_key!r}: each observation "
                "has one label."
            )
        total = (categories or 0) + extra
        super().__init__(variables * total, estimator, parents, conditional_posterior, decoded)
        self.state_shape, self.learned_prior = (variables, total), learned_prior
        self._expected_categories = categories
        if observed_key is not None:
            self.labels = ObservedLabels(observed_key, extra, label_weight)

    @override
    def set_label_names(self, names: Sequence[str]) -> None:
        assert self.labels is not None
        self.labels.set_names(names, self._expected_categories)
        self.size = len(self.labels.names)
        self.state_shape = (1, self.size)

    @override
    def state_name(self, variable: int, state: int) -> str:
        return self.labels.names[state] if self.labels is not None else super().state_name(variable, state)


def _check_unobserved(categories: int | None, extra: int, label_weight: float) -> None:
    """Raise a ConfigError if arguments of a variable that is never observed are missing or have no meaning."""
    if categories is None:
        raise ConfigError(
            "Categorical: categories=None must be a number, unless observed_key names a column with the categories."
        )
    if extra or label_weight != 1:
        name, value = ("extra", extra) if extra else ("label_weight", label_weight)
        raise ConfigError(f"Categorical: {name}={value} requires observed_key. Omit it, or pass observed_key.")


class Bernoulli(Latent):
    r"""A vector of bits, independent given the data, with a uniform prior, or one that depends on ``parents``.

    .. math:: q(z | x) = \prod_d \pi_d^{z_d} (1 - \pi_d)^{1 - z_d}, \quad p(z) = 2^{-D}, \quad \pi = \sigma(W h(x) + c)

    with encoder features h. The KL divergence :math:`D \log 2 - \sum_d H(\pi_d)`, with the entropy H of a bit, is
    analytic, also given parents.

    Parameters
    ----------
    dim : int
        Number of bits.
    estimator : Estimator or "auto"
        Gradient estimator; ``"auto"`` is an exact sum up to 6 bits, otherwise ``DisARM()``, or for joint samples the
        score function with leave-one-out baseline.
    parents, conditional_posterior, decoded
        As in :class:`Latent`. The posterior depends on the parents by default.

    Raises
    ------
    ConfigError
        If ``dim`` is below 1, or an argument is not valid for :class:`Latent`.

    Notes
    -----
    Mnih and Gregor (2014), Neural Variational Inference and Learning in Belief Networks.

    Examples
    --------
    >>> import vaekit
    >>> latents = {"bits": vaekit.latents.Bernoulli(200, estimator=vaekit.estimators.DisARM())}
    >>> model = vaekit.MixedVAE(784, vaekit.likelihoods.Bernoulli(), latents=latents)
    >>> model.latents["bits"].size
    200
    """

    conditional_posterior: bool | tuple[str, ...] = True
    discrete = True
    unit = "bit"

    def __init__(
        self,
        dim: int,
        estimator: Estimator | Literal["auto"] = "auto",
        parents: Sequence[str] = (),
        conditional_posterior: bool | Sequence[str] | None = None,
        decoded: bool | None = None,
    ) -> None:
        if dim < 1:
            raise ConfigError(f"Bernoulli: dim={dim} must be at least 1.")
        super().__init__(dim, estimator, parents, conditional_posterior, decoded)
        self.state_shape = (dim, 2)

    @override
    def posterior(self, h: Tensor) -> Distribution:
        return _independent_bits(self.head_outputs(h))

    @override
    def prior(self, parent: Tensor | None, like: Tensor) -> Distribution:
        return _independent_bits(like.new_zeros(self.size) if parent is None else self.prior_outputs(parent, like))

    @override
    def state_probabilities(self, summary: Tensor) -> Tensor:
        return torch.stack([1 - summary, summary], -1)

    @override
    def point_estimate(self, q: Distribution) -> Tensor:
        return (q.mean > 0.5).to(q.mean.dtype)  # torch's mode is NaN at 1/2


def _independent_bits(logits: Tensor) -> Distribution:
    return Independent(BernoulliDistribution(logits=logits, validate_args=False), 1)
