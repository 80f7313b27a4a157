"""Which latent units and codes a model uses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vaekit.batch import Batch
from vaekit.diagnostics.evaluation_mode import evaluation_mode
from vaekit.latents import Categorical, Dirichlet, Latent
from vaekit.models import VAE

if TYPE_CHECKING:
    import pandas as pd

ACTIVE_VARIANCE = 0.01  # Burda et al. (2016): the threshold between units in use and collapsed ones
ACTIVE_PROBABILITY = 0.01  # of codes: of their mean probability, and of the fraction of its variance that x explains


class LatentUsage(NamedTuple):
    """How a model uses its latents.

    Attributes
    ----------
    active_units
        Units of continuous latents in use: the posterior mean varies over the data by more than 0.01. A library size
        is none: it varies whatever the model learns. Topics of a Dirichlet latent are judged as codes are, by their
        :func:`activity`.
    units
        Units of continuous latents, but for a library size.
    code_usage
        For each discrete latent, the mean posterior probability of each state: ``[variables, categories]``, or
        ``[bits, 2]``.
    code_activity
        For each discrete latent, the :func:`activity` of each state, of the same shape.
    """

    active_units: int
    units: int
    code_usage: dict[str, Tensor]
    code_activity: dict[str, Tensor]

    def used_codes(self, name: str, threshold: float = ACTIVE_PROBABILITY) -> int:
        """Return how many states of a discrete latent are in use: their :func:`activity` is above ``threshold``."""
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
        if latent.discrete:
            states = state_probabilities(latent, summaries[name])
            usage[name] = states.mean(0)
            activities[name] = activity(latent, moments(latent, summaries[name]))
        elif not latent.is_nuisance:
            active += int((activity(latent, moments(latent, summaries[name])) > ACTIVE_VARIANCE).sum())
            units += latent.size
    return LatentUsage(active, units, usage, activities)


def has_shares(latent: Latent) -> bool:
    """Tell whether a latent has states or topics, whose probabilities or proportions sum to 1."""
    return latent.discrete or isinstance(latent, Dirichlet)


def state_probabilities(latent: Latent, summary: Tensor) -> Tensor:
    """Return the probabilities of a discrete latent's states, or proportions of topics.

    They are ``[observations, variables, states]``.
    """
    if isinstance(latent, Categorical):
        return summary.unflatten(-1, latent.shape)
    if isinstance(latent, Dirichlet):
        return summary.unsqueeze(-2)
    return torch.stack([1 - summary, summary], -1)


def moments(latent: Latent, summary: Tensor) -> Tensor:
    """Return the number of observations, the sums of each dimension or state, and of its squares, in float64."""
    values = (state_probabilities(latent, summary) if has_shares(latent) else summary).double()
    return torch.stack([torch.ones_like(values), values, values.square()]).sum(1)


def activity(latent: Latent, sums: Tensor) -> Tensor:
    """Return a number for each dimension or state of a latent that is above 0.01 if it is in use.

    For a dimension of a continuous latent it is the variance over the data of the posterior mean. For a state of a
    discrete latent, and a topic with its proportion, it is the mean probability m, or the fraction of its variance
    m (1 - m) that the data explain if this is less, and at most that of the second state of its variable: a variable
    that always takes the same state, or whose probabilities are the same for all data, carries nothing.

    Parameters
    ----------
    latent
        The latent.
    sums
        Result of :func:`moments`, or a sum of such results.

    Returns
    -------
    Tensor
        ``[size]``; for a discrete latent ``[variables, states]``, for topics ``[1, topics]``.
    """
    count, total, squares = sums
    mean = total / count
    variance = (squares / count - mean.square()).clamp_min(0)
    if not has_shares(latent):
        return variance
    explained = variance / (mean * (1 - mean)).clamp_min(torch.finfo(mean.dtype).tiny)
    states = torch.minimum(mean, explained)
    return states.minimum(states.topk(min(2, states.shape[-1])).values[..., -1:])


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

    if isinstance(latent, Categorical):
        digits = summary.unflatten(-1, latent.shape).argmax(-1)
    else:
        digits = (summary > 0.5).long()
    codes, number = np.unique(digits.numpy(), axis=0, return_inverse=True)
    return pd.Categorical.from_codes(number.reshape(-1), ["-".join(map(str, code)) for code in codes])
