"""Variational autoencoders as Lightning modules."""

from vaekit.models.chain_presets import HierarchicalVAE, SequentialVAE
from vaekit.models.persistence import load, save
from vaekit.models.presets import DiscreteVAE, GaussianVAE, MixedVAE
from vaekit.models.vae import VAE

__all__ = ["VAE", "DiscreteVAE", "GaussianVAE", "HierarchicalVAE", "MixedVAE", "SequentialVAE", "load", "save"]
