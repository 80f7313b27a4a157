"""Usage of latents: active dimensions, codes and posterior summaries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from vaekit.batch import Batch
from vaekit.latents import Latent
from vaekit.latents.activity import ACTIVE_PROBABILITY
from vaekit.models import VAE
from vaekit.models.evaluation_mode import evaluation_mode
from vaekit.plotting.names import free_title

if TYPE_CHECKING:
    import pandas as pd

    Column: TypeAlias = pd.Categorical | np.ndarray

MAX_COLUMNS = 12  # variables of one latent in a figure


class LatentUsage(NamedTuple):
    """Active dimensions and usage of codes of a model.

    Attributes
    ----------
    active_units : int
        Number of active dimensions: the posterior mean has a variance over the data above 0.01. A library size does not
        count, because it varies in any model. A topic of a Dirichlet latent is active by the criterion of codes.
    units : int
        Number of dimensions of continuous latents, except for a library size.
    code_usage : dict[str, Tensor], each of shape (variables, categories)
        Mean posterior probability of each state of each discrete latent; a bit has two states.
    code_activity : dict[str, Tensor], each of shape (variables, categories)
        :meth:`vaekit.latents.Latent.activity` of each state.

    Examples
    --------
    >>> import vaekit
    >>> usage = vaekit.diagnostics.latent_usage(model, vaekit.diagnostics.posterior_summaries(model, [batch]))
    >>> usage.units, usage.code_usage["y"].shape
    (2, torch.Size([1, 3]))
    """

    active_units: int
    units: int
    code_usage: dict[str, Tensor]
    code_activity: dict[str, Tensor]

    def used_codes(self, name: str, threshold: float = ACTIVE_PROBABILITY) -> int:
        """Return the number of states of a discrete latent with an activity above ``threshold``."""
        return int((self.code_activity[name] > threshold).sum())


def posterior_summaries(model: VAE, batches: Iterable[Batch]) -> dict[str, Tensor]:
    """Return posterior means, or probabilities of the states, of each latent: ``[observations, size]`` on the CPU.

    If a posterior depends on other latents, these have their most probable values, in topological order. For a sequence
    of categories, the result has the probabilities along the most probable path. The result is deterministic.

    Examples
    --------
    >>> import vaekit
    >>> summaries = vaekit.diagnostics.posterior_summaries(model, [batch])
    >>> {name: tuple(summary.shape) for name, summary in summaries.items()}
    {'y': (64, 3), 'z': (64, 2)}
    """
    parts: dict[str, list[Tensor]] = {name: [] for name in model.latents}
    with evaluation_mode(model):
        for batch in batches:
            for name, q in model.posteriors(batch.to(model.device)).items():
                parts[name].append(model.latents[name].summary(q).cpu())
    return {name: torch.cat(part) for name, part in parts.items()}


def latent_usage(model: VAE, summaries: dict[str, Tensor]) -> LatentUsage:
    """Count active dimensions and codes.

    Parameters
    ----------
    model : VAE
        Model of the summaries.
    summaries : dict[str, Tensor], each of shape (observations, size)
        Result of :func:`posterior_summaries`.

    Notes
    -----
    Burda, Grosse and Salakhutdinov (2016), Importance Weighted Autoencoders, section 5.2.

    Examples
    --------
    >>> import vaekit
    >>> usage = vaekit.diagnostics.latent_usage(model, vaekit.diagnostics.posterior_summaries(model, [batch]))
    >>> usage.used_codes("y")
    3
    """
    num_active = num_dimensions = 0
    usage, activities = {}, {}
    for name, latent in model.latents.items():
        activity = latent.activity(latent.moments(summaries[name]))
        if latent.discrete:
            usage[name], activities[name] = latent.state_probabilities(summaries[name]).mean(0), activity
        elif latent.is_coordinate:
            num_active += int((activity > latent.active_threshold).sum())
            num_dimensions += latent.size
    return LatentUsage(num_active, num_dimensions, usage, activities)


def coordinate_activities(model: VAE, summaries: Mapping[str, Tensor]) -> dict[str, tuple[np.ndarray, str]]:
    """Return the activity of each dimension or topic of the continuous latents except for a library size, and its unit.

    Parameters
    ----------
    model, summaries
        As for :func:`latent_usage`.
    """
    return {
        name: (latent.activity(latent.moments(summaries[name])).flatten().numpy(), latent.unit)
        for name, latent in model.latents.items()
        if latent.is_coordinate
    }


def coordinates(model: VAE, summaries: dict[str, Tensor]) -> Tensor:
    """Return the coordinates of each observation in latent space, ``[observations, dimensions]``.

    These are all continuous latents except for a library size, or the probabilities of all codes in a discrete model.
    """
    continuous = [summaries[name] for name, latent in model.latents.items() if latent.is_coordinate]
    discrete = [summaries[name] for name, latent in model.latents.items() if latent.discrete]
    return torch.cat(continuous or discrete, -1)


def most_probable_codes(latent: Latent, summary: Tensor) -> pd.Categorical:
    """Return the most probable code of each observation, such as ``"3"``, or ``"3-0-1"`` for three variables.

    The categories are the codes that occur, in numerical order: ``"2"`` before ``"10"``.

    Examples
    --------
    >>> import vaekit
    >>> summaries = vaekit.diagnostics.posterior_summaries(model, [batch])
    >>> vaekit.diagnostics.most_probable_codes(model.latents["y"], summaries["y"]).categories.tolist()
    ['0', '1', '2']
    """
    import pandas as pd

    codes, index = np.unique(latent.codes(summary).numpy(), axis=0, return_inverse=True)
    return pd.Categorical.from_codes(index.reshape(-1), ["-".join(map(str, code)) for code in codes])


def variable_codes(latent: Latent, summary: Tensor) -> dict[str, pd.Categorical]:
    """Return the most probable state of each observation for each variable that has a name.

    The categories are all states of the variable.
    """
    import pandas as pd

    codes = latent.codes(summary).numpy()
    names = [latent.unit_name(index) for index in range(latent.size)]
    columns = {}
    for index, variable in enumerate(latent.variable_names):
        count = sum(name.startswith(f"{variable}:") for name in names)
        columns[variable] = pd.Categorical.from_codes(codes[:, index], list(map(str, range(count))))
    return columns


def add_code_columns(columns: Mapping[str, Column], model: VAE, summaries: Mapping[str, Tensor]) -> dict[str, Column]:
    """Return columns together with those of :func:`code_columns`, whose titles end in "(model)" if they are taken."""
    result = dict(columns)
    for title, codes in code_columns(model, summaries).items():
        result[free_title(title, result)] = codes
    return result


def code_columns(model: VAE, summaries: Mapping[str, Tensor]) -> dict[str, pd.Categorical]:
    """Return the columns that color a figure of the observations: most probable states, and largest topics.

    Parameters
    ----------
    model : VAE
        Model of the summaries.
    summaries : Mapping[str, Tensor], each of shape (observations, size)
        Result of :func:`posterior_summaries`.

    Returns
    -------
    dict[str, pandas.Categorical]
        One column per variable: ``"code y"``, or for the first of several variables ``"code y: 0"``, and
        ``"largest topic of topics"``. The categories are all states, so that a state has the same color in figures of
        other observations. Of more than 12 variables of a latent, those whose states have the highest entropy are
        returned.

    Examples
    --------
    >>> import vaekit
    >>> columns = vaekit.diagnostics.code_columns(model, vaekit.diagnostics.posterior_summaries(model, [batch]))
    >>> {name: len(column) for name, column in columns.items()}
    {'code y': 64}
    """
    import pandas as pd

    columns = {}
    for name, latent in model.latents.items():
        if latent.state_shape is None:
            continue
        usage = latent.state_probabilities(summaries[name]).mean(0)
        entropy = -torch.special.xlogy(usage, usage).sum(-1)
        codes = latent.codes(summaries[name]).numpy()
        for variable in sorted(entropy.argsort(descending=True, stable=True)[:MAX_COLUMNS].tolist()):
            title = f"largest {latent.unit} of {name}" if latent.is_proportions else f"{latent.unit} {name}"
            label = latent.variable_names[variable] if latent.variable_names else variable
            title += f": {label}" if len(usage) > 1 else ""
            name_of = partial(latent.state_name, 0) if latent.is_single_categorical else str
            columns[title] = pd.Categorical.from_codes(codes[:, variable], list(map(name_of, range(usage.shape[-1]))))
    return columns
