"""Latent variables: posterior, prior and gradient estimator of each kind."""

from vaekit.latents.dirichlet import Dirichlet
from vaekit.latents.discrete import Bernoulli, Categorical
from vaekit.latents.flow import Flow
from vaekit.latents.flow_prior import FlowPrior
from vaekit.latents.gamma import Gamma
from vaekit.latents.gaussian import Gaussian
from vaekit.latents.gaussian_mixture import GaussianMixture
from vaekit.latents.latent import Latent
from vaekit.latents.library_size import LibrarySize
from vaekit.latents.mixture_component import MixtureComponent
from vaekit.latents.poisson import Poisson
from vaekit.latents.prior import Prior
from vaekit.latents.product import Product
from vaekit.latents.student_t import StudentT
from vaekit.latents.vamp_prior import VampPrior

__all__ = [
    "Bernoulli",
    "Categorical",
    "Dirichlet",
    "Flow",
    "FlowPrior",
    "Gamma",
    "Gaussian",
    "GaussianMixture",
    "Latent",
    "LibrarySize",
    "MixtureComponent",
    "Poisson",
    "Prior",
    "Product",
    "StudentT",
    "VampPrior",
]
