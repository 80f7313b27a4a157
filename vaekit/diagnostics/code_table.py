"""Table of the codes of a latent: their size, certainty and labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vaekit.models import VAE

if TYPE_CHECKING:
    import pandas as pd

MAX_LABELS = 30  # with a column each


def code_table(
    model: VAE, summaries: Mapping[str, Tensor], name: str, labels: pd.Categorical | None = None
) -> pd.DataFrame:
    r"""Describe each code of a discrete latent, or each topic of a Dirichlet latent.

    Parameters
    ----------
    model : VAE
        Model of the summaries.
    summaries : Mapping[str, Tensor], each of shape (observations, size)
        Result of :func:`vaekit.diagnostics.posterior_summaries`.
    name : str
        Name of a latent with states.
    labels : pandas.Categorical, optional
        Label of each observation; missing values do not count. None: the table does not have columns of labels.

    Returns
    -------
    pandas.DataFrame
        A row per state of each variable, in their order. The columns are ``code`` (``"3"``; or ``"1:3"`` for state 3 of
        variable 1, and for bits), ``usage`` (mean posterior probability, or proportion of the topic), ``n``
        (observations whose most probable state, or largest topic, this is) and ``entropy`` (their mean posterior
        entropy :math:`-\sum_c q_c \log q_c` in nats, NaN without observations). With labels, ``label`` is the most
        frequent label of these observations, ``label_fraction`` is its fraction, ``label_entropy`` the entropy of
        their label composition in nats, and ``fraction LABEL`` the fraction of each of the 30 most frequent labels.

    Examples
    --------
    >>> import pytorch_lightning as pl, vaekit
    >>> from vaekit.data import ImageData
    >>> from vaekit.diagnostics import code_table, posterior_summaries
    >>> _ = pl.seed_everything(0, verbose=False)
    >>> data = ImageData("digits")
    >>> model = vaekit.DiscreteVAE(data.features, vaekit.likelihoods.Bernoulli(), variables=1, categories=3)
    >>> table = code_table(model, posterior_summaries(model, data.dataloader("all")), "y")
    >>> list(table.columns), int(table["n"].sum())
    (['code', 'usage', 'n', 'entropy'], 1797)
    """
    import pandas as pd

    latent = model.latents[name]
    probabilities = latent.state_probabilities(summaries[name])
    entropies = -torch.special.xlogy(probabilities, probabilities).double().sum(-1)
    states = probabilities.argmax(-1)
    usage = probabilities.double().mean(0)
    rows = []
    for variable, state in torch.cartesian_prod(*map(torch.arange, usage.shape)).tolist():
        members = states[:, variable] == state
        row = {
            "code": latent.state_name(variable, state),
            "usage": float(usage[variable, state]),
            "n": int(members.sum()),
            "entropy": float(entropies[members, variable].mean()),
        }
        rows.append(row if labels is None else row | _label_composition(labels[members.numpy()]))
    table = pd.DataFrame(rows)
    if labels is not None:
        frequent = labels.value_counts().nlargest(MAX_LABELS).index
        hidden = [f"fraction {label}" for label in labels.categories if label not in frequent]
        table = table.drop(columns=hidden)
    return table


def _label_composition(labels: pd.Categorical) -> dict[str, str | float]:
    """Return the most frequent label of some observations, and the composition of their labels."""
    counts = labels.value_counts()
    counts = counts[counts.index.notna()]
    fractions = torch.from_numpy((counts / max(1, counts.sum())).to_numpy(float))
    names = [str(label) for label in counts.index]
    is_known = bool(fractions.any())
    return {
        "label": names[int(fractions.argmax())] if is_known else "",
        "label_fraction": float(fractions.max()) if is_known else float("nan"),
        "label_entropy": float(-torch.special.xlogy(fractions, fractions).sum()) if is_known else float("nan"),
        **{f"fraction {label}": fraction for label, fraction in zip(names, fractions.tolist(), strict=True)},
    }
