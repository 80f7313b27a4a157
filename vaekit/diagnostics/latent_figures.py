"""Figures of the latents of a model: UMAP, usage of codes, topics and active dimensions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from vaekit.diagnostics.usage import code_columns, coordinates, latent_usage
from vaekit.latents.activity import ACTIVE_VARIANCE
from vaekit.plotting import embedding_figures, model_figures, plot_topics

if TYPE_CHECKING:
    import pandas as pd

    from vaekit.plotting.model_figures import Figure


def latent_figures(model: Any, data: Any, summaries: dict[str, Tensor], umap: bool) -> dict[str, Figure]:
    """Return the figures of the latents by name.

    Parameters
    ----------
    model, data : VAE, DataModule
        Model, and the data whose observations are summarized.
    summaries : dict[str, Tensor], each of shape (observations, size)
        Result of :func:`vaekit.diagnostics.posterior_summaries` for all observations.
    umap : bool
        Whether to compute a UMAP, which is slow.
    """
    figures = _embedding_figures(model, data, summaries) if umap else _topic_bars(model, data, summaries)
    for name, usage in latent_usage(model, summaries).code_usage.items():
        figures[f"code_usage_{name}"] = _code_usage(model, data, name, summaries[name], usage)
    variances = {
        name: summaries[name].var(0, correction=0).numpy()
        for name, latent in model.latents.items()
        if latent.is_coordinate
    }
    if variances:
        figures["active_units"] = model_figures.active_units(variances, ACTIVE_VARIANCE)
    return figures


def _embedding_figures(model: Any, data: Any, summaries: dict[str, Tensor]) -> dict[str, Figure]:
    """Return the UMAP, and the topics by label, or by Leiden cluster without labels."""
    points, columns = coordinates(model, summaries).numpy(), data.category_columns()
    index = embedding_figures.sample_points(len(points))
    title = embedding_figures.umap_title(len(index), len(points))
    points = points[index]
    positions = embedding_figures.umap_coordinates(points)
    panels = {name: values[index] for name, values in (columns | code_columns(model, summaries)).items()}
    figures = {"umap": embedding_figures.plot_embedding(positions, panels, title)}
    if proportions := _proportions(model, summaries):
        label = _label(data)
        groups = embedding_figures.leiden_clusters(points) if label is None else label[index]
        for name, values in proportions.items():
            figures[f"topics_{name}"] = plot_topics(values[index], groups, positions, name)
    return figures


def _topic_bars(model: Any, data: Any, summaries: dict[str, Tensor]) -> dict[str, Figure]:
    """Return the topics by label; an empty mapping without labels."""
    label = _label(data)
    proportions = {} if label is None else _proportions(model, summaries)
    return {f"topics_{name}": plot_topics(values, label, name=name) for name, values in proportions.items()}


def _proportions(model: Any, summaries: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: summaries[name].numpy() for name, latent in model.latents.items() if latent.is_proportions}


def _label(data: Any) -> pd.Categorical | None:
    import pandas as pd

    return pd.Categorical(data.labels, data.label_categories) if data.label_categories else None


def _code_usage(model: Any, data: Any, name: str, summary: Tensor, usage: Tensor) -> Figure:
    """Plot the mean probabilities of the states by label, or by variable if there are several or no labels."""
    if model.latents[name].is_single_categorical and data.label_categories:
        by_label = {label: data.labels == label for label in data.label_categories}
        means = {label: summary.numpy()[mask].mean(0) for label, mask in by_label.items() if mask.any()}
        return model_figures.code_usage(name, np.stack(list(means.values())), list(means), "label")
    return model_figures.code_usage(name, usage.numpy(), [str(i) for i in range(len(usage))], "variable")
