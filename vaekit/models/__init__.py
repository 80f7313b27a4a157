"""Lightning modules of variational autoencoders."""

from vaekit.models.checkpoint import load
from vaekit.models.named import DiscreteVAE, GaussianVAE, MixedVAE
from vaekit.models.vae import VAE

__all__ = ["VAE", "DiscreteVAE", "GaussianVAE", "MixedVAE", "load"]
