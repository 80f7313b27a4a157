"""Shapes of latent graphs: the examples of the table of graph shapes, for the tests and for the benchmark."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vaekit import GaussianVAE, HierarchicalVAE, MixedVAE
from vaekit.latents import Bernoulli, Categorical, Gaussian, Latent, MixtureComponent
from vaekit.models import VAE

DIM = 10  # of the latent that the decoder sees, as in the Gaussian VAE


def _tree() -> dict[str, Latent]:
    return {
        "coarse": Categorical(4, learned_prior=True, decoded=False),
        "fine": Categorical(4, parents=["coarse"]),
        "z": Gaussian(DIM, parents=["coarse", "fine"]),
    }


GRAPHS: dict[str, Callable[[], dict[str, Latent]]] = {
    # q(z1 | x, y): the category is decoded as well (M2), selects the component (GMVAE), or is a mixture's (VaDE)
    "M2": lambda: {
        "y": Categorical(10, learned_prior=True),
        "z": Gaussian(DIM, parents=["y"], conditional_posterior=True),
    },
    "GMVAE": lambda: {
        "y": Categorical(10, learned_prior=True, decoded=False),
        "z": Gaussian(DIM, parents=["y"], conditional_posterior=True),
    },
    "hierarchy, independent posteriors": lambda: {"z1": Gaussian(DIM, parents=["z2"]), "z2": Gaussian(5)},
    "VaDE": lambda: {"y": MixtureComponent(10), "z": Gaussian(DIM, parents=["y"])},
    "tree of codes over a Gaussian": _tree,
    "codes given a Gaussian": lambda: {"z": Gaussian(DIM), "y": Categorical(8, parents=["z"])},
    "mixed parents": lambda: {
        "y": Categorical(8, learned_prior=True),
        "u": Gaussian(3),
        "z": Gaussian(DIM, parents=["y", "u"]),
    },
    "fork": lambda: {
        "u": Gaussian(5),
        "z": Gaussian(DIM, parents=["u"]),
        "b": Bernoulli(4, parents=["u"]),
    },
}


def shape_names() -> list[str]:
    return ["hierarchy, top-down", "hierarchy, bottom-up", "three levels", *GRAPHS]


def shape(name: str, features: int, likelihood: Any, **arguments: Any) -> VAE:
    """Create a model of a shape; ``gaussian`` is the Gaussian VAE that it is compared with."""
    if name == "gaussian":
        return GaussianVAE(features, likelihood, latent_dim=DIM, **arguments)
    if name in GRAPHS:
        return MixedVAE(features, likelihood, latents=GRAPHS[name](), **arguments)
    dims = [DIM, 5, 3] if name == "three levels" else [DIM, 5]
    return HierarchicalVAE(features, likelihood, dims=dims, top_down=name != "hierarchy, bottom-up", **arguments)
