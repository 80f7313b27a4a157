"""Networks: modules that learn their input width from the model."""

from vaekit.networks.additive_decoder import Additive
from vaekit.networks.conv import ConvDecoder, ConvEncoder
from vaekit.networks.identity import Identity
from vaekit.networks.linear_decoder import Linear
from vaekit.networks.mlp import MLP
from vaekit.networks.network import Network

__all__ = ["MLP", "Additive", "ConvDecoder", "ConvEncoder", "Identity", "Linear", "Network"]
