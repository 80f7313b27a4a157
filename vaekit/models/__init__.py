"""Lightning modules of variational autoencoders."""

from vaekit.models.checkpoint import load, save
from vaekit.models.presets import DiscreteVAE, GaussianVAE, MixedVAE, SequentialVAE
from vaekit.models.vae import VAE

__all__ = ["VAE", "DiscreteVAE", "GaussianVAE", "MixedVAE", "SequentialVAE", "load", "save"]
