"""Clusters ignore the library size."""

from __future__ import annotations

import numpy as np
import torch

from vaekit import MixedVAE
from vaekit.diagnostics import label_agreement
from vaekit.latents import Gaussian, LibrarySize
from vaekit.likelihoods import NegativeBinomial


def test_clusters_do_not_depend_on_the_library_size():
    model = MixedVAE(5, NegativeBinomial(), latents={"z": Gaussian(2), "l": LibrarySize()}, hidden=[4])
    kinds, depths = np.arange(80) % 2, np.arange(80) // 40
    z = torch.randn(80, 2) * 0.1 + torch.from_numpy(kinds)[:, None]
    summaries = {"z": z, "l": 50.0 * torch.from_numpy(depths)[:, None]}  # a much larger variance than z
    agreement = label_agreement(model, summaries, kinds)
    assert agreement is not None
    assert agreement.ari == 1
    assert label_agreement(model, summaries, depths).ari < 0.1
