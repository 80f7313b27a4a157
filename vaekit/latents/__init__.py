"""Latent variables: posterior, prior and gradient estimator of each kind."""

from vaekit.latents.dirichlet import Dirichlet
from vaekit.latents.discrete import Bernoulli, Categorical
from vaekit.latents.gamma import Gamma
from vaekit.latents.gaussian import Gaussian
from vaekit.latents.latent import Latent
from vaekit.latents.library_size import LibrarySize
from vaekit.latents.mixture_component import MixtureComponent
from vaekit.latents.poisson import Poisson
from vaekit.latents.product import Product
from vaekit.latents.student_t import StudentT

__all__ = [
    "Bernoulli",
    "Categorical",
    "Dirichlet",
    "Gamma",
    "Gaussian",
    "Latent",
    "LibrarySize",
    "MixtureComponent",
    "Poisson",
    "Product",
    "StudentT",
]
