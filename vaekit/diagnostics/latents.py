"""Which latent units and codes a model uses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vaekit.batch import Batch
from vaekit.diagnostics.evaluation_mode import evaluation_mode
from vaekit.latents import Categorical, Latent
from vaekit.models import VAE

if TYPE_CHECKING:
    import pandas as pd

ACTIVE_VARIANCE = 0.01  # Burda et al. (2016): the threshold between units in use and collapsed ones


class LatentUse(NamedTuple):
    """How a model uses its latents.

    Attributes
    ----------
    active_units
        Units of continuous latents in use: the posterior mean varies over the data by more than 0.01. A library size
        is none: it varies whatever the model learns.
    units
        Units of continuous latents, but for a library size.
    code_usage
        For each discrete latent, the mean posterior probability of each state: ``[variables, categories]``, or
        ``[bits, 2]``.
    """

    active_units: int
    units: int
    code_usage: dict[str, Tensor]

    def used_codes(self, name: str, threshold: float = 0.01) -> int:
        """Return how many states of a discrete latent have a mean probability above ``threshold``."""
        return int((self.code_usage[name] > threshold).sum())


def posterior_summaries(model: VAE, batches: Iterable[Batch]) -> dict[str, Tensor]:
    """Return each latent's posterior means, or probabilities of its states, ``[observations, size]``, on the CPU.

    Where a posterior depends on other latents, these have their most probable values, found one after another: of a
    sequence of categories, the probabilities of each along the most probable path. Nothing is drawn.
    """
    parts: dict[str, list[Tensor]] = {name: [] for name in model.latents}
    with evaluation_mode(model):
        for batch in batches:
            for name, q in model.posteriors(batch.to(model.device)).items():
                parts[name].append(model.latents[name].summary(q).cpu())
    return {name: torch.cat(part) for name, part in parts.items()}


def latent_use(model: VAE, summaries: dict[str, Tensor]) -> LatentUse:
    """Count active units and code usage.

    Parameters
    ----------
    model
        The model that made them.
    summaries
        What :func:`posterior_summaries` returns.

    Notes
    -----
    Burda, Grosse and Salakhutdinov (2016), Importance Weighted Autoencoders, section 5.2.
    """
    active = units = 0
    usage = {}
    for name, latent in model.latents.items():
        summary = summaries[name]
        if isinstance(latent, Categorical):
            usage[name] = summary.mean(0).unflatten(0, latent.shape)
        elif latent.discrete:
            usage[name] = torch.stack([1 - summary.mean(0), summary.mean(0)], -1)
        elif not latent.technical:
            active += int((summary.var(0, correction=0) > ACTIVE_VARIANCE).sum())
            units += latent.size
    return LatentUse(active, units, usage)


def codes_of(latent: Latent, summary: Tensor) -> pd.Categorical:
    """Return the most probable code of each cell, such as ``"3"`` or, of several variables, ``"3-0-1"``.

    The categories are the codes in use, in the order of their numbers: ``"2"`` before ``"10"``.
    """
    import pandas as pd

    if isinstance(latent, Categorical):
        digits = summary.unflatten(-1, latent.shape).argmax(-1)
    else:
        digits = (summary > 0.5).long()
    codes, number = np.unique(digits.numpy(), axis=0, return_inverse=True)
    return pd.Categorical.from_codes(number.reshape(-1), ["-".join(map(str, code)) for code in codes])
