"""The generative and the inference network of a VAE: what every model, objective and diagnostic is made of.

A batch flows: ``Batch`` -> encoder -> posterior of each latent -> draws -> decoder -> likelihood.
"""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit.batch import Batch, DataStatistics
from vaekit.exceptions import ConfigError, EstimatorError
from vaekit.graph.dependencies import Node, NodeFunction
from vaekit.latents import Latent
from vaekit.likelihoods import Likelihood
from vaekit.models.topological_order import posterior_ancestors, topological_order
from vaekit.networks import Network
from vaekit.networks.precision import at_least_float32

RESERVED = ("weight",)  # kl_weight is logged beside kl_<name>
MAX_ROWS = 4096  # of all latents together, each with an axis of its own


class VAENetworks(nn.Module):
    r"""Encoder, latents, decoder and likelihood, with their sizes made to fit.

    .. math:: p(z) = \prod_l p(z_l | \mathrm{parents}_l), \quad q(z | x) = \prod_l q(z_l | x, \mathrm{parents}_l),

    but that the posterior of a latent that is not ``conditional`` does not depend on its parents, and the decoder does
    not see these either: they act through its prior alone. The decoder sees all other latents, a library size excepted,
    which acts on the likelihood in the place of ``Batch.size_factor``.

    Parameters
    ----------
    features
        Observed variables (genes, pixels).
    covariates
        Width of the known covariates, which encoder and decoder see.
    encoder, latents, decoder, likelihood
        The parts.
    joint
        Whether the objective draws joint trajectories of the latents.

    Raises
    ------
    ConfigError
        If there is no latent, or a parent is unknown, not discrete, or its own descendant; if all latents together
        have more than 4096 rows; if there is a library size and no other latent, several, or a likelihood that has no
        use for it.

    Attributes
    ----------
    order
        Names of the latents, parents before their children, else as declared.
    seen_by_decoder
        Latents that p(x | z) depends on: by way of the decoder, or of the likelihood's size factor.
    decoded
        Latents that the decoder sees.
    library
        Name of the latent that is the library size, or None.
    """

    def __init__(
        self,
        features: int,
        covariates: int,
        encoder: Network,
        latents: Mapping[str, Latent],
        decoder: Network,
        likelihood: Likelihood,
        joint: bool = False,
    ) -> None:
        super().__init__()
        if features < 1:
            raise ConfigError(f"features is {features}: the model's size comes from the data (data.features)")
        if not latents:
            raise ConfigError("latents is empty: a variational autoencoder needs at least one")
        for name in latents:
            if not name.isidentifier() or hasattr(nn.ModuleDict(), name) or name in RESERVED:
                raise ConfigError(
                    f"a latent cannot be named {name!r}: an identifier is needed, such as 'y' or 'z', that is no "
                    f"attribute of a module and not {', '.join(map(repr, RESERVED))} (a logged quantity)"
                )
        # copies: a part may be used in several models, and is made to fit this one
        encoder, decoder, likelihood = copy.deepcopy(encoder), copy.deepcopy(decoder), copy.deepcopy(likelihood)
        latents = {name: copy.deepcopy(latent) for name, latent in latents.items()}  # each with its own estimator
        width = encoder.build(features + covariates)
        self.order = topological_order(latents)
        self._ancestors = posterior_ancestors(self.order, latents)
        rows = 1
        for name in self.order:
            latent = latents[name]
            parent_size = sum(latents[parent].size for parent in latent.parents) if latent.parents else None
            seen = sum(latents[ancestor].size for ancestor in self._ancestors[name] - {name})
            try:
                rows *= latent.build(width, parent_size, rows, joint, covariates, seen)
            except EstimatorError as error:
                raise EstimatorError(f"latent {name!r}: {error}") from None
        if not joint and rows > MAX_ROWS:
            raise ConfigError(
                f"the latents {', '.join(map(repr, latents))} have {rows} rows together, as each has an axis of its "
                f"own, over {MAX_ROWS}; draw joint trajectories instead: objective ELBO(num_samples=4), say"
            )
        self.encoder, self.decoder, self.likelihood = encoder, decoder, likelihood
        self._latents = nn.ModuleDict(latents)
        hidden = {
            parent for latent in latents.values() if not latent.conditional_posterior for parent in latent.parents
        }
        self.seen_by_decoder = tuple(name for name in latents if name not in hidden)
        self.library = _library(latents, likelihood)
        self.decoded = tuple(name for name in self.seen_by_decoder if name != self.library)
        decoder_width = decoder.build(sum(latents[name].size for name in self.decoded) + covariates)
        likelihood.build(decoder_width, features, covariates)

    @property
    def latents(self) -> dict[str, Latent]:
        """The latent variables by name."""
        return dict(self._latents.items())  # type: ignore[arg-type]

    @property
    def groups(self) -> list[list[str]]:
        """The latents, grouped by whether their posteriors depend on one another; parents first in each."""
        found: list[list[str]] = []
        for name in self.order:
            joined = [group for group in found if self._ancestors[name].intersection(group)]
            found = [group for group in found if group not in joined]
            found.append([*itertools.chain.from_iterable(joined), name])
        return found

    def _like_weights(self, x: Tensor) -> Tensor:
        """Return ``x`` in the type of the weights, if that is wider: data are float32, also if the model is float64."""
        return x.to(torch.promote_types(x.dtype, next(self.parameters()).dtype))

    def weight_matrices(self) -> list[Tensor]:
        """Return the weights of linear layers, which a decay may shrink; the components of a mixture are no such."""
        components = {id(getattr(latent, "components", None)) for latent in self.latents.values()}
        layers = (m for m in self.modules() if isinstance(m, nn.Linear) and id(m) not in components)
        return [layer.weight for layer in layers]

    def init_from_data(self, moments: DataStatistics) -> None:
        """Start the likelihood and the latents at the data's moments."""
        self.likelihood.init_from_data(moments)
        for latent in self.latents.values():
            latent.init_from_data(moments)

    def encode(self, batch: Batch) -> Tensor:
        """Return encoder features, ``[batch, width]``."""
        return self.features(self.likelihood.encoder_input(batch), batch.covariates)

    def features(self, x: Tensor, covariates: Tensor | None) -> Tensor:
        """Return encoder features ``[batch, width]`` of the encoder's input ``[batch, features]``."""
        x = x if covariates is None else torch.cat([x, covariates], -1)
        return self.encoder(self._like_weights(x))

    def posterior(self, name: str, h: Tensor, values: Mapping[str, Tensor]) -> Distribution:
        """Return q(z | x, parents) of a latent, batch shape ``[*rows, batch]``; the parents may not count."""
        latent = self.latents[name]
        if not latent.posterior_parents:
            return latent.posterior(h)
        return latent.posterior(latent.condition_on_parents(h, self._side_by_side(latent.posterior_parents, values)))

    def posteriors(self, h: Tensor) -> dict[str, Distribution]:
        """Return q(z | x) of each latent, batch shape ``[batch]``, a conditional one's on the most probable path.

        Where a posterior depends on parents, these have their most probable values, found one after another: a
        distribution that can be looked at and summarised. To draw all latents together see :meth:`draw`.
        """
        found: dict[str, Distribution] = {}
        values: dict[str, Tensor] = {}
        for name in self.order:
            found[name] = self.posterior(name, h, values)
            if self.latents[name].discrete:  # what may be a parent
                values[name] = self.latents[name].point_estimate(found[name])
        return {name: found[name] for name in self.latents}

    def nodes(self, h: Tensor) -> list[Node]:
        """Return the posteriors as the nodes of a stochastic graph, parents first, for encoder features ``h``."""
        return [self.node(name, h) for name in self.order]

    def node(self, name: str, h: Tensor) -> Node:
        """Return one of :meth:`nodes`."""
        latent = self.latents[name]
        parents, ancestors = latent.posterior_parents, self._ancestors[name]
        if not parents:
            return Node(name, latent.posterior(h), (), ancestors)
        return Node(name, NodeFunction(functools.partial(self._given, name, h), parents), parents, ancestors)

    def _given(self, name: str, h: Tensor, /, **values: Tensor) -> Distribution:
        return self.posterior(name, h, values)

    def sample_posterior(self, h: Tensor, num_samples: int) -> dict[str, Tensor]:
        """Draw all latents from the posterior, parents first, each ``[num_samples, batch, *event]``."""
        values: dict[str, Tensor] = {}
        for name in self.order:
            q = self.posterior(name, h, values)
            values[name] = q.sample(torch.Size([num_samples] if len(q.batch_shape) == 1 else []))
        return values

    def prior(self, name: str, values: Mapping[str, Tensor], like: Tensor) -> Distribution:
        """Return the prior of a latent, given the values of its parents in ``values``."""
        latent = self.latents[name]
        parents = self._side_by_side(latent.parents, values) if latent.parents else None
        return latent.prior(parents, at_least_float32(self._like_weights(like)))

    def _side_by_side(self, names: Sequence[str], values: Mapping[str, Tensor]) -> Tensor:
        """Return flattened values of latents, ``[*rows, batch, sizes together]``."""
        return self._like_weights(_side_by_side([self.latents[name].flatten(values[name]) for name in names]))

    def log_likelihood(self, values: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Return log p(x | z), ``[*rows, batch]``, for values ``[*rows, batch, *event]`` of the latents."""
        return self.likelihood.log_prob(*self._scaled(values, batch))

    def observation(self, values: Mapping[str, Tensor], batch: Batch) -> Distribution:
        """Return p(x | z), batch shape ``[*rows, batch]``, for values ``[*rows, batch, *event]`` of the latents."""
        return self.likelihood(*self._scaled(values, batch))

    def decode(self, values: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Return decoder features, ``[*rows, batch, width]``."""
        parts = [self.latents[name].flatten(values[name]) for name in self.decoded]
        if batch.covariates is not None:
            parts.append(batch.covariates)
        return self.decoder(self._like_weights(_side_by_side(parts)))

    def _scaled(self, values: Mapping[str, Tensor], batch: Batch) -> tuple[Tensor, Batch]:
        """Return decoder features ``[*rows, batch, width]``, and the batch with the library size that was drawn."""
        h = self.decode(values, batch)
        if self.library is None:
            return h, batch
        latent = self.latents[self.library]
        size = latent.size_factor(values[self.library], batch)
        rows = torch.broadcast_shapes(h.shape[:-1], size.shape[:-1])
        return h.expand(*rows, h.shape[-1]), batch._replace(size_factor=size)


def _library(latents: Mapping[str, Latent], likelihood: Likelihood) -> str | None:
    names = [name for name, latent in latents.items() if latent.is_nuisance]
    if not names:
        return None
    if len(names) > 1 or len(latents) == 1:
        raise ConfigError(
            f"latents are {', '.join(map(repr, latents))}, of which {', '.join(map(repr, names))} are library sizes; "
            "one library size beside other latents is possible"
        )
    if not likelihood.uses_size_factor:
        raise ConfigError(
            f"latent {names[0]!r} is a library size, which {type(likelihood).__name__} has no use for; "
            "NegativeBinomial, ZeroInflatedNegativeBinomial and Poisson scale their mean by it"
        )
    return names[0]


def _side_by_side(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate ``[*rows, batch, size]`` along the last axis; an axis of rows may be absent or of size 1."""
    leading = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return torch.cat([part.expand(*leading, part.shape[-1]) for part in parts], -1)
