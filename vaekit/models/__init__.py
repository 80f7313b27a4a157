"""Variational autoencoders as Lightning modules."""

from vaekit.models.persistence import load, save
from vaekit.models.presets import DiscreteVAE, GaussianVAE, MixedVAE, SequentialVAE
from vaekit.models.vae import VAE

__all__ = ["VAE", "DiscreteVAE", "GaussianVAE", "MixedVAE", "SequentialVAE", "load", "save"]
