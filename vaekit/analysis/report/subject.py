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
from vaekit.data.figure_columns import FigureColumns
from vaekit.diagnostics import label_agreement, posterior_summaries
from vaekit.diagnostics.agreement import Agreement
from vaekit.diagnostics.usage import add_code_columns
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
    color : list of str or None
        Further columns, or genes, that color the UMAP.
    num_samples, seed : int
        Number of importance samples per observation, and seed of all samples.
    """

    model: VAE
    facts: RunFacts
    data: DataModule | None
    warnings: list[str]
    color: list[str] | None
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
    def columns(self) -> FigureColumns:
        """Batch, label, the columns of ``color``, codes and largest topics of all observations, by title."""
        assert self.data is not None
        columns = self.data.figure_columns(self.color)
        return columns._replace(values=add_code_columns(columns.values, self.model, self.summaries))

    @cached_property
    def labels(self) -> pd.Categorical | None:
        """Label of each observation; None without labels."""
        assert self.data is not None
        return self.data.label_column

    @cached_property
    def agreement(self) -> Agreement | None:
        """Agreement of clusters with the labels; None without labels."""
        labels = self.labels
        return None if labels is None else label_agreement(self.model, self.summaries, np.asarray(labels.codes))

    def title(self, column: str) -> str:
        """Return the name of a column with its role: ``"batch (donor)"``."""
        arguments = self.facts.data.get("init_args", {})
        role = next((kind for kind in ("batch", "label") if arguments.get(f"{kind}_key") == column), None)
        return column if role in (None, column) else f"{role} ({column})"

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
