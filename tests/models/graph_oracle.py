"""Small latent graphs, and their exact loss by quadrature and enumeration, from the weights and from formulas alone.

The oracle does not use the posteriors, priors, divergences, samples or the graph of the package: each density is
written out here. It shares the encoder, the decoder and the likelihood with the model, as functions of numbers.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vaekit import MixedVAE
from vaekit.batch import Batch
from vaekit.estimators import Estimator
from vaekit.latents import Categorical, Gaussian, Latent
from vaekit.likelihoods import Bernoulli
from vaekit.models import VAE
from vaekit.models.objectives import Objective
from vaekit.networks import MLP

from .tiny import FEATURES, pixels, sharpen

CATEGORIES = 3


class Node(NamedTuple):
    """A node: a Gaussian number, or a category of three.

    ``above`` is whether its posterior sees the parents, and ``seen`` are the nodes that it sees instead.
    """

    name: str
    gaussian: bool
    parents: tuple[str, ...] = ()
    above: bool = False
    decoded: bool = True  # as the rule or the argument `decoded` of the latent must have it
    argument: bool | None = None
    seen: tuple[str, ...] = ()

    @property
    def posterior_parents(self) -> tuple[str, ...]:
        """The nodes that the posterior sees."""
        return self.seen or (self.parents if self.above else ())


def _gaussian(name: str, *parents: str, above: bool = False, **options: Any) -> Node:
    return Node(name, True, parents, above, **options)


def _category(name: str, *parents: str, above: bool = True, **options: Any) -> Node:
    return Node(name, False, parents, above, **options)


GRAPHS: dict[str, tuple[Node, ...]] = {
    "chain, from the data": (_gaussian("a", decoded=False), _gaussian("b", "a", decoded=False), _gaussian("c", "b")),
    "chain, bottom-up": (
        _gaussian("c", "b"),
        _gaussian("b", "a", decoded=False, seen=("c",)),
        _gaussian("a", decoded=False, seen=("b",)),
    ),
    "code over a Gaussian, bottom-up": (
        _gaussian("c", "b"),
        _category("b", "a", decoded=False, seen=("c",)),
        _category("a", decoded=False, seen=("b",)),
    ),
    "chain, top-down": (
        _gaussian("a", decoded=False, argument=False),
        _gaussian("b", "a", above=True, decoded=False, argument=False),
        _gaussian("c", "b", above=True),
    ),
    "chain, all decoded": (_gaussian("a"), _gaussian("b", "a", above=True), _gaussian("c", "b", above=True)),
    "continuous, discrete, continuous": (_gaussian("a"), _category("b", "a", decoded=False), _gaussian("c", "b")),
    "discrete, continuous, continuous": (
        _category("a"),
        _gaussian("b", "a", above=True, decoded=False),
        _gaussian("c", "b"),
    ),
    "discrete, continuous, discrete": (
        _category("a", decoded=False, argument=False),
        _gaussian("b", "a", above=True),
        _category("c", "b"),
    ),
    "mixed parents": (_category("a"), _gaussian("b"), _gaussian("c", "a", "b", above=True)),
    "mixed parents of a prior": (
        _category("a", decoded=False),
        _gaussian("b", decoded=True, argument=True),
        _gaussian("c", "a", "b"),
    ),
    "category with mixed parents": (_category("a"), _gaussian("b"), _category("c", "a", "b")),
    "fork": (_gaussian("a", decoded=False), _gaussian("b", "a"), _category("c", "a")),
    "fork of a category": (_category("a", decoded=False), _gaussian("b", "a"), _gaussian("c", "a", above=True)),
    "tree of codes over a Gaussian": (
        _category("a", decoded=False),
        _category("b", "a", decoded=False),
        _gaussian("c", "a", "b"),
    ),
}
PAIRS: dict[str, tuple[Node, ...]] = {
    "two levels, top-down": (_gaussian("a", decoded=False, argument=False), _gaussian("b", "a", above=True)),
    "two levels, from the data": (_gaussian("a", decoded=False), _gaussian("b", "a")),
    "two levels, bottom-up": (_gaussian("b", "a"), _gaussian("a", decoded=False, seen=("b",))),
    "category above": (_category("a"), _gaussian("b", "a", above=True)),
    "category below": (_gaussian("a"), _category("b", "a")),
}


def build(graph: tuple[Node, ...], estimators: dict[bool, Estimator | str], objective: Objective | None = None) -> VAE:
    """Create a model of a graph in float64, with one estimator for all Gaussians and one for all categories."""
    latents: dict[str, Latent] = {}
    for node in reversed(graph):  # last ones first: the order of declaration must not matter
        sees: Any = list(node.seen) or (node.above if node.parents else None)
        common = {"parents": list(node.parents), "conditional_posterior": sees,
                  "decoded": node.argument, "estimator": estimators[node.gaussian]}  # fmt: skip
        latents[node.name] = (
            Gaussian(1, **common) if node.gaussian else Categorical(CATEGORIES, learned_prior=True, **common)
        )
    model = MixedVAE(FEATURES, Bernoulli(), latents=latents, hidden=[6], dropout=0.0, objective=objective)
    for module in model.modules():  # quadrature converges for smooth functions; layer norm of one number is a step
        if isinstance(module, MLP):
            module.layers = torch.nn.Sequential(module.layers[0], torch.nn.Tanh())
    sharpen(model, 0.8)
    with torch.no_grad():  # scales near 1: a narrow prior needs many points
        for name, parameter in model.networks.named_parameters():
            if len(parameter) == 2 and ("head" in name or "prior_network.1" in name or "components" in name):
                parameter[1].mul_(0.2)
    return model.double()


def images(copies: int) -> Batch:
    """Return two images, many times."""
    return Batch(pixels().x[:2].double().repeat_interleave(copies, 0))


class Grid(NamedTuple):
    """Points of all latents, ``[points, batch, ...]``, with gradients."""

    values: dict[str, Tensor]  # numbers [points, batch, 1], or one-hot [points, batch, 3]
    weight: Tensor  # of the quadrature times the posterior of the categories, [points, batch]
    log_q: dict[str, Tensor]
    log_p: dict[str, Tensor]
    log_x: Tensor

    def terms(self) -> dict[str, Tensor]:
        """Return the reconstruction term and the divergence of each latent, ``[batch]``."""
        divergences = {f"kl_{n}": (self.weight * (self.log_q[n] - self.log_p[n])).sum(0) for n in self.values}
        return {"reconstruction": -(self.weight * self.log_x).sum(0), **divergences}

    def loss(self, kl_weight: float) -> Tensor:
        """Return the negative ELBO with weighted divergences, ``[batch]``."""
        terms = self.terms()
        return terms.pop("reconstruction") + kl_weight * sum(terms.values())

    def negative_bound_of_two(self) -> Tensor:
        """Return the negative importance-weighted bound from two samples, ``[batch]``."""
        log_weight = self.log_x + sum(self.log_p.values()) - sum(self.log_q.values())
        pairs = torch.logaddexp(log_weight[:, None], log_weight[None]) - math.log(2)
        return -(self.weight[:, None] * self.weight[None] * pairs).sum((0, 1))


def _layer(network: Any, x: Tensor) -> Tensor:
    """Return the output of a layer."""
    return F.linear(x, network.layers[0].weight, network.layers[0].bias).tanh()


def _normal(loc: Tensor, raw: Tensor, z: Tensor) -> Tensor:
    scale = F.softplus(raw + 0.5413) + 1e-4
    return (-0.5 * ((z - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1)


def _prior(graph: tuple[Node, ...], latent: Any, node: Node, parents: Tensor | None, value: Tensor) -> Tensor:
    """Return log p(value | parents)."""
    discrete = all(not other.gaussian for other in graph if other.name in node.parents)
    if parents is None:
        if node.gaussian:
            return (-0.5 * value.square() - 0.5 * math.log(2 * math.pi)).sum(-1)
        return (latent.prior_logits.log_softmax(-1)[0] * value).sum(-1)
    if node.gaussian and discrete:
        outputs = parents @ latent.components.weight.T
    else:
        last = latent.prior_network[1]
        outputs = F.linear(_layer(latent.prior_network[0], parents), last.weight, last.bias)
    if node.gaussian:
        return _normal(*outputs.chunk(2, -1), value)
    return (outputs.log_softmax(-1) * value).sum(-1)


def list_points(model: VAE, graph: tuple[Node, ...], batch: Batch, num_points: int = 24) -> Grid:
    """Return a grid of Gauss-Hermite points of each Gaussian and all categories, in the order of ``graph``.

    Each node comes after those that its posterior depends on.
    """
    abscissas, weights = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(num_points))
    weights = weights / math.sqrt(2 * math.pi)
    h = model.networks.encode(batch)
    size = len(h)
    values: dict[str, Tensor] = {}
    weight, log_q, log_p = torch.ones(1, size, dtype=h.dtype), dict[str, Tensor](), dict[str, Tensor]()
    for node in graph:
        latent, count = model.latents[node.name], len(weight)
        features = h.expand(count, *h.shape)
        if node.posterior_parents:
            others = torch.cat([values[name] for name in latent.posterior_parents], -1)
            features = _layer(latent.joining, torch.cat([features, others], -1))
        outputs = F.linear(features, latent.head.weight, latent.head.bias)
        num_new = num_points if node.gaussian else CATEGORIES

        def spread(x: Tensor, num_new: int = num_new) -> Tensor:
            return x.repeat(num_new, *[1] * (x.dim() - 1))

        if node.gaussian:
            loc, raw = (spread(part) for part in outputs.chunk(2, -1))
            u = abscissas.repeat_interleave(count)[:, None, None].expand(-1, size, 1)
            value = loc + (F.softplus(raw + 0.5413) + 1e-4) * u
            own, weight = _normal(loc, raw, value), spread(weight) * weights.repeat_interleave(count)[:, None]
        else:
            value = torch.eye(CATEGORIES, dtype=h.dtype).repeat_interleave(count, 0)[:, None].expand(-1, size, -1)
            own = (spread(outputs).log_softmax(-1) * value).sum(-1)
            weight = spread(weight) * own.exp()
        values, log_q = ({n: spread(v) for n, v in part.items()} for part in (values, log_q))
        values[node.name], log_q[node.name] = value, own
    for node in graph:
        parents = torch.cat([values[name] for name in node.parents], -1) if node.parents else None
        log_p[node.name] = _prior(graph, model.latents[node.name], node, parents, values[node.name])
    seen = {node.name for node in graph if node.decoded}
    inputs = torch.cat([values[name] for name in model.latents if name in seen], -1)
    log_x = model.networks.likelihood.log_prob(model.networks.decoder(inputs), batch)
    return Grid(values, weight, log_q, log_p, log_x)


def directions(gradient: Tensor) -> list[Tensor]:
    """Return the direction of a gradient and a random one."""
    random = F.normalize(torch.randn_like(gradient), dim=0)
    return [gradient / gradient.norm(), random]


def names(graphs: dict[str, Any], *others: Any) -> list[Any]:
    """Return all combinations of graphs and other parameters."""
    return list(itertools.product(graphs, *others))
