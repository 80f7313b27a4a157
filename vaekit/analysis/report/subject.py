"""Subject of a report: a model, the facts about its run, and its data if they are available."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from vaekit.analysis.report.run_facts import RunFacts
from vaekit.data.data_module import DataModule
from vaekit.diagnostics import code_columns, posterior_summaries
from vaekit.models import VAE

if TYPE_CHECKING:
    import pandas as pd

SUMMARY_BATCH = 1024  # observations; that of the figures at the end of a run, so that both have the same UMAP
MAX_OBSERVATIONS = 2000  # whose likelihood or replicates are computed; more would take minutes
MAX_ROWS = 40  # of a table


@dataclass(frozen=True)
class Subject:
    """Subject of a report.

    Attributes
    ----------
    model : VAE
        Trained model.
    facts : RunFacts
        Facts about its run.
    data : DataModule or None
        Its training data with their split; None if they are not available.
    warnings : list of str
        Warnings of the reading of the data for this report.
    num_samples, seed : int
        Number of importance samples per observation, and seed of all samples.
    """

    model: VAE
    facts: RunFacts
    data: DataModule | None
    warnings: list[str]
    num_samples: int
    seed: int

    @property
    def registry(self) -> Mapping[str, Any]:
        """Data registry of the model; empty if it was never trained on a data module."""
        return self.model.data_registry or {}

    @property
    def has_counts(self) -> bool:
        """Whether the observations are cells with counts of genes."""
        return "feature_names" in self.registry

    @property
    def noun(self) -> str:
        """Name of one observation."""
        return "cell" if self.has_counts else "image" if "image_shape" in self.registry else "observation"

    @cached_property
    def summaries(self) -> dict[str, Tensor]:
        """Posterior summaries of all observations (:func:`vaekit.diagnostics.posterior_summaries`)."""
        assert self.data is not None
        return posterior_summaries(self.model, self.data.dataloader("all", batch_size=SUMMARY_BATCH))

    @cached_property
    def columns(self) -> dict[str, pd.Categorical]:
        """Batch, label, codes and largest topics of all observations, by title."""
        assert self.data is not None
        return {**self.data.category_columns(), **code_columns(self.model, self.summaries)}

    @cached_property
    def labels(self) -> pd.Categorical | None:
        """Label of each observation; None without labels."""
        import pandas as pd

        assert self.data is not None
        categories = self.data.label_categories
        return pd.Categorical(self.data.labels, categories) if categories else None

    @property
    def labeled_latents(self) -> list[str]:
        """Names of the latents with codes or topics."""
        return [name for name, latent in self.model.latents.items() if latent.state_shape is not None]


def spread(count: int, maximum: int = MAX_OBSERVATIONS) -> np.ndarray:
    """Return at most ``maximum`` different indices below ``count``, equally spaced.

    Examples
    --------
    >>> spread(5, 3).tolist(), spread(2, 3).tolist()
    ([0, 2, 4], [0, 1])
    """
    return np.linspace(0, count - 1, min(count, maximum)).round().astype(int)
