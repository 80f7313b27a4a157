"""Which latent units and codes a model uses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vaekit.batch import Batch
from vaekit.diagnostics.evaluation_mode import evaluation_mode
from vaekit.latents import Latent
from vaekit.latents.activity import ACTIVE_PROBABILITY
from vaekit.models import VAE

if TYPE_CHECKING:
    import pandas as pd


class LatentUsage(NamedTuple):
    """How a model uses its latents.

    Attributes
    ----------
    active_units
        Units of continuous latents in use: the posterior mean varies over the data by more than 0.01. A library size
        is none: it varies whatever the model learns. Topics of a Dirichlet latent are judged as codes are, by their
        activity.
    units
        Units of continuous latents, but for a library size.
    code_usage
        For each discrete latent, the mean posterior probability of each state: ``[variables, categories]``, or
        ``[bits, 2]``.
    code_activity
        For each discrete latent, the :meth:`vaekit.latents.Latent.activity` of each state, of the same shape.
    """

    active_units: int
    units: int
    code_usage: dict[str, Tensor]
    code_activity: dict[str, Tensor]

    def used_codes(self, name: str, threshold: float = ACTIVE_PROBABILITY) -> int:
        """Return the number of states of a discrete latent with an activity above ``threshold``."""
        return int((self.code_activity[name] > threshold).sum())


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


def latent_usage(model: VAE, summaries: dict[str, Tensor]) -> LatentUsage:
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
    usage, activities = {}, {}
    for name, latent in model.latents.items():
        activity = latent.activity(latent.moments(summaries[name]))
        if latent.discrete:
            usage[name], activities[name] = latent.state_probabilities(summaries[name]).mean(0), activity
        elif latent.is_coordinate:
            active += int((activity > latent.active_threshold).sum())
            units += latent.size
    return LatentUsage(active, units, usage, activities)


def coordinates(model: VAE, summaries: dict[str, Tensor]) -> Tensor:
    """Return the position of each observation in latent space, ``[observations, units]``.

    These are all continuous latents, or all probabilities of the codes if there are none. A library size is not a
    coordinate.
    """
    seen = {name: latent for name, latent in model.latents.items() if not latent.is_nuisance}
    continuous = [summaries[name] for name, latent in seen.items() if not latent.discrete]
    return torch.cat(continuous or [summaries[name] for name in seen], -1)


def most_probable_codes(latent: Latent, summary: Tensor) -> pd.Categorical:
    """Return the most probable code of each cell, such as ``"3"`` or, of several variables, ``"3-0-1"``.

    The categories are the codes in use, in the order of their numbers: ``"2"`` before ``"10"``.
    """
    import pandas as pd

    codes, index = np.unique(latent.codes(summary).numpy(), axis=0, return_inverse=True)
    return pd.Categorical.from_codes(index.reshape(-1), ["-".join(map(str, code)) for code in codes])
