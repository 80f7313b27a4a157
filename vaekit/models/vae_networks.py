"""Generative and inference networks of a VAE.

The data flow is ``Batch`` -> encoder -> posterior of each latent -> samples -> decoder -> likelihood.
"""

from __future__ import annotations

import copy
import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit.batch import Batch, DataStatistics
from vaekit.exceptions import EstimatorError
from vaekit.graph.dependencies import Node, NodeFunction
from vaekit.latents import Latent
from vaekit.likelihoods import Likelihood
from vaekit.models.evaluation_budget import check_evaluations
from vaekit.models.label_names import name_categories
from vaekit.models.latent_rules import check_sizes_and_names, find_library
from vaekit.models.topological_order import generative_order, inference_order, posterior_ancestors, seen_by_decoder
from vaekit.networks import Network
from vaekit.networks.precision import at_least_float32


class VAENetworks(nn.Module):
    r"""Encoder, latents, decoder and likelihood, built with matching sizes.

    .. math:: p(z) = \prod_l p(z_l | \mathrm{parents}_l), \quad q(z | x) = \prod_l q(z_l | x, \mathrm{parents}_l)

    The posterior of a latent without ``conditional_posterior`` does not depend on its parents; names in it take their
    place in q. The decoder does not see parents that the posterior does not depend on, which act through the prior
    only. It sees all other latents except the library size, which replaces ``Batch.size_factor`` in the likelihood.
    :attr:`vaekit.latents.Latent.decoded` of a latent decides otherwise.

    Parameters
    ----------
    features, covariates : int
        Number of observed variables (genes, pixels), and width of the covariates.
    encoder, latents, decoder, likelihood
        The parts. The networks use copies, so that a part can be used in several models.
    joint : bool
        Whether the objective draws joint samples of the latents.
    encoder_covariates : bool
        Whether the encoder sees the covariates, like the decoder.
    labels : Mapping[str, Sequence[str]]
        Names of the categories of the observed latent, by its ``observed_key``.

    Raises
    ------
    ConfigError
        If there is no latent, or a parent does not exist, depends on its child or does not accept it; if neither the
        decoder nor a child depends on a latent; if the latents together need more than 4096 evaluations of the cost per
        observation; if there are several library sizes, no other latent, or the likelihood does not use a size factor.

    Attributes
    ----------
    order : tuple[str, ...]
        Names of the latents, parents before their children, otherwise as declared.
    inference_order : tuple[str, ...]
        The same names, each after those that its posterior depends on.
    seen_by_decoder : tuple[str, ...]
        Latents that p(x given z) depends on, through the decoder or the size factor.
    decoded : tuple[str, ...]
        Latents that the decoder sees.
    library : str or None
        Name of the latent library size.
    label_latent : str or None
        Name of the latent whose categories are known for some observations.
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
        encoder_covariates: bool = False,
        labels: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        check_sizes_and_names(features, latents)
        encoder, decoder, likelihood = copy.deepcopy(encoder), copy.deepcopy(decoder), copy.deepcopy(likelihood)
        latents = {name: copy.deepcopy(latent) for name, latent in latents.items()}
        self.label_latent = name_categories(latents, labels)
        self.order = generative_order(latents)
        self.inference_order = inference_order(self.order, latents)
        self._ancestors = posterior_ancestors(self.inference_order, latents)
        self.encoder_covariates = encoder_covariates
        encoder_features = features + (covariates if encoder_covariates else 0)
        width, evaluations = encoder.build(encoder_features), dict[str, int]()
        for name in self.inference_order:
            latent = latents[name]
            parent_size = sum(latents[parent].size for parent in latent.parents) if latent.parents else None
            ancestor_size = sum(latents[ancestor].event_size for ancestor in self._ancestors[name] - {name})
            are_discrete = all(latents[parent].discrete for parent in latent.parents)
            posterior_size = sum(latents[other].size for other in latent.posterior_parents)
            sizes = covariates, ancestor_size, are_discrete, posterior_size
            try:
                earlier = math.prod(evaluations.values())
                evaluations[name] = latent.build(width, parent_size, earlier, joint, *sizes)
            except EstimatorError as error:
                raise EstimatorError(f"latent {name!r}: {error}") from None
            latent.estimator.follows_scale = True  # gradient scaling and accumulation multiply the loss
        for name, latent in latents.items():
            latent.connect(name, {other: child for other, child in latents.items() if name in child.parents})
            latent.connect_encoder(encoder, encoder_features)
        if not joint:
            check_evaluations(latents, evaluations)
        self.encoder, self.decoder, self.likelihood = encoder, decoder, likelihood
        self._latents = nn.ModuleDict(latents)
        self._posterior_parents = {parent for latent in latents.values() for parent in latent.posterior_parents}
        self.seen_by_decoder = seen_by_decoder(latents)
        self.library = find_library(latents, likelihood)
        self.decoded = tuple(name for name in self.seen_by_decoder if name != self.library)
        decoder_width = decoder.build_decoder(sum(latents[name].size for name in self.decoded), covariates)
        likelihood.build(decoder_width, features, covariates)

    @property
    def latents(self) -> dict[str, Latent]:
        """The latent variables by name."""
        return dict(self._latents.items())  # type: ignore[arg-type]

    @property
    def groups(self) -> list[list[str]]:
        """The latents, grouped so that posteriors of different groups are independent, in the order of inference."""
        groups: list[list[str]] = []
        for name in self.inference_order:
            merged = [group for group in groups if self._ancestors[name].intersection(group)]
            groups = [group for group in groups if group not in merged]
            groups.append([*itertools.chain.from_iterable(merged), name])
        return groups

    def descendants(self, name: str) -> list[str]:
        """Return the latents whose priors depend on a latent, directly or indirectly, parents first."""
        names = [name]
        for other in self.order:
            if not set(names).isdisjoint(self.latents[other].parents):
                names.append(other)
        return names[1:]

    def weight_matrices(self) -> list[Tensor]:
        """Return the weights of linear layers that may decay."""
        undecayed = {id(layer) for latent in self.latents.values() for layer in latent.undecayed_layers()}
        return [m.weight for m in self.modules() if isinstance(m, nn.Linear) and id(m) not in undecayed]

    def init_from_data(self, statistics: DataStatistics, draw: Callable[[int], Batch] | None = None) -> None:
        """Initialize the likelihood and the latents from the training data.

        Parameters
        ----------
        statistics : DataStatistics
            Statistics of the training data.
        draw : Callable, optional
            Returns the given number of random training observations, or all if there are fewer.
        """
        self.likelihood.init_from_data(statistics)
        for latent in self.latents.values():
            latent.init_from_data(statistics)
            if draw is not None:
                latent.init_from_observations(functools.partial(self._draw_inputs, draw))

    def _draw_inputs(self, draw: Callable[[int], Batch], count: int) -> Tensor:
        """Return the inputs of the encoder for random training observations."""
        batch = draw(count)
        return self._join_covariates(self.likelihood.encoder_input(batch), batch.covariates)

    def encode(self, batch: Batch) -> Tensor:
        """Return encoder features, ``[batch, width]``."""
        return self.features(self.likelihood.encoder_input(batch), batch.covariates)

    def features(self, x: Tensor, covariates: Tensor | None) -> Tensor:
        """Return encoder features ``[batch, width]`` for the encoder's input ``[batch, features]``."""
        return self.encoder(self._promote(self._join_covariates(x, covariates)))

    def _join_covariates(self, x: Tensor, covariates: Tensor | None) -> Tensor:
        return torch.cat([x, covariates], -1) if self.encoder_covariates and covariates is not None else x

    def posterior(self, name: str, h: Tensor, values: Mapping[str, Tensor]) -> Distribution:
        """Return q(z given x) of a latent, ``[*sample, batch]``, at values of the latents that it depends on."""
        latent = self.latents[name]
        if not latent.posterior_parents:
            return latent.posterior(h)
        return latent.posterior(latent.condition_on_parents(h, self._flatten(latent.posterior_parents, values)))

    def posteriors(self, h: Tensor) -> dict[str, Distribution]:
        """Return q(z given x) of each latent, batch shape ``[batch]``.

        A posterior that depends on other latents is conditioned on their most probable codes or, if they are
        continuous, means.
        """
        posteriors: dict[str, Distribution] = {}
        values: dict[str, Tensor] = {}
        for name in self.inference_order:
            posteriors[name] = self.posterior(name, h, values)
            if name in self._posterior_parents:
                values[name] = self.latents[name].point_estimate(posteriors[name])
        return {name: posteriors[name] for name in self.latents}

    def nodes(self, h: Tensor, label: Tensor | None = None) -> list[Node]:
        """Return the posteriors as the nodes of a stochastic graph, in the order of inference.

        Parameters
        ----------
        h : Tensor, shape (batch, width)
            Encoder features.
        label : Tensor or None, shape (batch)
            Known categories of the observed latent in training, -1 if unknown. None: as in evaluation, its posterior
            is that of the model without labels.
        """
        return [self.node(name, h, label) for name in self.inference_order]

    def node(self, name: str, h: Tensor, label: Tensor | None = None) -> Node:
        """Return one of :meth:`nodes`."""
        latent = self.latents[name]
        parents, ancestors = latent.posterior_parents, self._ancestors[name]
        if not parents:
            q = latent.posterior(h)
            if label is not None and latent.labels is not None:
                q = latent.labels.clamp(q, label)
            return Node(name, q, (), ancestors)
        return Node(name, NodeFunction(functools.partial(self._posterior_at, name, h), parents), parents, ancestors)

    def _posterior_at(self, name: str, h: Tensor, /, **values: Tensor) -> Distribution:
        return self.posterior(name, h, values)

    def label_loss(self, h: Tensor, label: Tensor | None) -> Tensor | None:
        """Return the loss of known labels ``[batch]``, weighted; None without labels or an observed latent."""
        if label is None or self.label_latent is None:
            return None
        latent = self.latents[self.label_latent]
        assert latent.labels is not None  # it is the observed latent
        return latent.labels.loss(latent.posterior(h), label)

    def sample_posterior(self, h: Tensor, num_samples: int) -> dict[str, Tensor]:
        """Draw all latents from the posterior, each ``[num_samples, batch, *event]``."""
        values: dict[str, Tensor] = {}
        for name in self.inference_order:
            q = self.posterior(name, h, values)
            values[name] = q.sample(torch.Size([num_samples] if len(q.batch_shape) == 1 else []))
        return values

    def prior(self, name: str, values: Mapping[str, Tensor], like: Tensor) -> Distribution:
        """Return the prior of a latent at values of its parents, with the device of ``like``."""
        latent = self.latents[name]
        parents = self._flatten(latent.parents, values) if latent.parents else None
        return latent.prior(parents, at_least_float32(self._promote(like)))

    def log_likelihood(self, values: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Return log p(x given z), ``[*sample, batch]``, at values ``[*sample, batch, *event]`` of the latents."""
        return self.likelihood.log_prob(*self._decode_scaled(values, batch))

    def observation(self, values: Mapping[str, Tensor], batch: Batch) -> Distribution:
        """Return p(x given z), batch shape ``[*sample, batch]``, at values of the latents."""
        return self.likelihood(*self._decode_scaled(values, batch))

    def decode(self, values: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Return decoder features, ``[*sample, batch, width]``."""
        covariates = [] if batch.covariates is None else [batch.covariates]
        return self.decoder(self._flatten(self.decoded, values, covariates))

    def decode_units(self, units: Tensor, covariates: Tensor | None) -> Tensor:
        """Return decoder features, ``[*sample, width]``, at the values that the decoder sees.

        Parameters
        ----------
        units : Tensor, shape (*sample, units)
            Flattened values of the latents in :attr:`decoded`, in this order.
        covariates : Tensor or None, shape (*sample, covariates)
            Covariates; a batch of them broadcasts over the samples.
        """
        if covariates is not None:
            units = torch.cat([units, covariates.expand(*units.shape[:-1], covariates.shape[-1])], -1)
        return self.decoder(self._promote(units))

    def _decode_scaled(self, values: Mapping[str, Tensor], batch: Batch) -> tuple[Tensor, Batch]:
        """Return decoder features, and the batch with the sampled library size as its size factor."""
        h = self.decode(values, batch)
        if self.library is None:
            return h, batch
        size_factor = self.latents[self.library].size_factor(values[self.library], batch)
        leading = torch.broadcast_shapes(h.shape[:-1], size_factor.shape[:-1])
        return h.expand(*leading, h.shape[-1]), batch._replace(size_factor=size_factor)

    def _flatten(self, names: Sequence[str], values: Mapping[str, Tensor], others: Sequence[Tensor] = ()) -> Tensor:
        """Concatenate flattened values and other tensors in the model's precision, ``[*sample, batch, size]``."""
        parts = [*(self.latents[name].flatten(values[name]) for name in names), *others]
        leading = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
        return self._promote(torch.cat([part.expand(*leading, part.shape[-1]) for part in parts], -1))

    def _promote(self, x: Tensor) -> Tensor:
        """Return ``x`` with the dtype of the weights if it is wider; data are float32 even if the model is float64."""
        return x.to(torch.promote_types(x.dtype, next(self.parameters()).dtype))
