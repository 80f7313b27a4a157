"""The generative and the inference network of a VAE: what every model, objective and diagnostic is made of.

A batch flows: ``Batch`` -> encoder -> posterior of each latent -> draws -> decoder -> likelihood.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from vaekit.batch import Batch, Moments
from vaekit.exceptions import ConfigError, EstimatorError, nearest
from vaekit.latents import Latent, LibrarySize
from vaekit.likelihoods import Likelihood
from vaekit.networks import Network

RESERVED = ("weight",)  # kl_weight is logged beside kl_<name>


class Generative(nn.Module):
    """Encoder, latents, decoder and likelihood, with their sizes made to fit.

    The posterior is a product over the latents given the data; the prior of a latent may depend on its parent.
    The decoder sees the latents that are nobody's parent: a parent acts through its child's prior. A library size acts
    on the likelihood alone, in the place of ``Batch.size_factor``.

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
        If there is no latent, or a parent is unknown, declared after its child, or not discrete; if there is a
        library size and no other latent, several, or a likelihood that has no use for it.

    Attributes
    ----------
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
        rows = 1
        for name, latent in latents.items():
            parent_size = None
            if latent.parent is not None:
                parent_size = _parent(name, latent.parent, latents).size
            try:
                rows *= latent.build(width, parent_size, rows, joint, covariates)
            except EstimatorError as error:
                raise EstimatorError(f"latent {name!r}: {error}") from None
        self.encoder, self.decoder, self.likelihood = encoder, decoder, likelihood
        self._latents = nn.ModuleDict(latents)
        parents = {latent.parent for latent in latents.values()}
        self.seen_by_decoder = tuple(name for name in latents if name not in parents)
        self.library = _library(latents, likelihood)
        self.decoded = tuple(name for name in self.seen_by_decoder if name != self.library)
        decoder_width = decoder.build(sum(latents[name].size for name in self.decoded) + covariates)
        likelihood.build(decoder_width, features, covariates)

    @property
    def latents(self) -> dict[str, Latent]:
        """The latent variables by name."""
        return dict(self._latents.items())  # type: ignore[arg-type]

    def weight_matrices(self) -> list[Tensor]:
        """Return the weights of linear layers, which a decay may shrink; the components of a mixture are no such."""
        components = {id(getattr(latent, "components", None)) for latent in self.latents.values()}
        layers = (m for m in self.modules() if isinstance(m, nn.Linear) and id(m) not in components)
        return [layer.weight for layer in layers]

    def start_at(self, moments: Moments) -> None:
        """Start the likelihood and the latents at the data's moments."""
        self.likelihood.start_at(moments)
        for latent in self.latents.values():
            latent.start_at(moments)

    def encode(self, batch: Batch) -> Tensor:
        """Return encoder features, ``[batch, width]``."""
        x = self.likelihood.encoder_input(batch)
        return self.encoder(x if batch.covariates is None else torch.cat([x, batch.covariates], -1))

    def posteriors(self, h: Tensor) -> dict[str, Distribution]:
        """Return q(z | x) of each latent, batch shape ``[batch]``."""
        return {name: latent.posterior(h) for name, latent in self.latents.items()}

    def prior(self, name: str, values: Mapping[str, Tensor], like: Tensor) -> Distribution:
        """Return the prior of a latent, given the value of its parent in ``values``."""
        latent = self.latents[name]
        if latent.parent is None:
            return latent.prior(None, like)
        return latent.prior(self.latents[latent.parent].flatten(values[latent.parent]), like)

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
        leading = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
        h = torch.cat([part.expand(*leading, part.shape[-1]) for part in parts], -1)
        return self.decoder(h)

    def _scaled(self, values: Mapping[str, Tensor], batch: Batch) -> tuple[Tensor, Batch]:
        """Return decoder features ``[*rows, batch, width]``, and the batch with the library size that was drawn."""
        h = self.decode(values, batch)
        if self.library is None:
            return h, batch
        latent = self.latents[self.library]
        assert isinstance(latent, LibrarySize)
        size = latent.size_factor(values[self.library], batch)
        rows = torch.broadcast_shapes(h.shape[:-1], size.shape[:-1])
        return h.expand(*rows, h.shape[-1]), batch._replace(size_factor=size)


def _library(latents: Mapping[str, Latent], likelihood: Likelihood) -> str | None:
    names = [name for name, latent in latents.items() if isinstance(latent, LibrarySize)]
    if not names:
        return None
    if len(names) > 1 or len(latents) == 1:
        raise ConfigError(
            f"latents are {', '.join(map(repr, latents))}, of which {', '.join(map(repr, names))} are library sizes; "
            "one library size beside other latents is possible"
        )
    if not likelihood.scaled:
        raise ConfigError(
            f"latent {names[0]!r} is a library size, which {type(likelihood).__name__} has no use for; "
            "NegativeBinomial, ZeroInflatedNegativeBinomial and Poisson scale their mean by it"
        )
    return names[0]


def _parent(name: str, parent: str, latents: Mapping[str, Latent]) -> Latent:
    if parent not in latents:
        raise ConfigError(f"latent {name!r} has the parent {parent!r}, which is no latent: {nearest(parent, latents)}")
    if parent == name or latents[parent].parent is not None:
        raise ConfigError(f"latent {name!r}: its parent {parent!r} must be another latent, itself without a parent")
    if not latents[parent].discrete:
        raise ConfigError(
            f"latent {name!r}: its parent {parent!r} is a {type(latents[parent]).__name__}; a parent chooses the "
            "components of a mixture and must be discrete (Categorical, Bernoulli)"
        )
    return latents[parent]
