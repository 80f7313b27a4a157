"""Dropout whose noise costs little on the CPU."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


class Dropout(nn.Dropout):
    """Drops values in training, and scales the others up, as torch's own layer does.

    On the CPU that one draws a number after another, and takes as long as a linear map. Here the generator gives a
    seed, and the numbers follow from it side by side.

    Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov (2014), Dropout: A Simple Way to Prevent Neural Networks
    from Overfitting.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the values, some of them 0."""
        if not self.training or not 0 < self.p < 1:
            return super().forward(x)
        if x.device.type != "cpu" or torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
            return super().forward(x)
        return x * noise(x.shape, self.p).to(x.dtype)


def noise(shape: torch.Size, p: float) -> Tensor:
    """Return 0 with probability ``p``, else ``1 / (1 - p)``, float32; the seed is from torch's global generator."""
    from vaekit.networks.dropout_loop import f32, fill, u64  # slow to import

    seed = u64(torch.randint(2**63 - 1, (1,)).numpy()[0])
    out = np.empty(shape, f32)
    fill(seed, u64(round(p * 2**32)), f32(1 / (1 - p)), out.reshape(-1))
    return torch.from_numpy(out)
