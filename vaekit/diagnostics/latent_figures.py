"""Figures of the latents of a model: UMAP, usage of codes, topics and active dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from vaekit.diagnostics.usage import add_code_columns, coordinate_activities, coordinates, latent_usage
from vaekit.latents.activity import ACTIVE_VARIANCE
from vaekit.plotting import embedding_figures, model_figures, plot_embedding, plot_latents, plot_topics
from vaekit.plotting.embedding_figures import NO_PALETTES, NO_UNITS
from vaekit.plotting.points import sample_points

if TYPE_CHECKING:
    import pandas as pd

    from vaekit.models import VAE
    from vaekit.plotting.figure_files import Figure

Columns = Mapping[str, "pd.Categorical | np.ndarray"]
Palettes = Mapping[str, Mapping[str, str]]


def plot_summaries(
    model: VAE,
    summaries: Mapping[str, Tensor],
    columns: Columns,
    palettes: Palettes = NO_PALETTES,
    units: Mapping[str, str] = NO_UNITS,
    groups: pd.Categorical | None = None,
    title: str = "",
) -> Figure:
    """Plot the UMAP of the latents, colored by columns and codes, and the topics of the groups.

    Parameters
    ----------
    model : VAE
        Model of the summaries.
    summaries : Mapping[str, Tensor], each of shape (observations, size)
        Result of :func:`posterior_summaries`.
    columns : Mapping[str, pandas.Categorical or ndarray], each of length ``observations``
        Categories or numbers of the observations by the title of the panel.
    palettes : Mapping[str, Mapping[str, str]]
        Colors of categories by the title of the panel.
    units : Mapping[str, str]
        Units of numbers by the title of the panel.
    groups : pandas.Categorical or None
        Groups whose mean proportions of topics are shown; None means Leiden clusters.
    title : str
        Beginning of the title.
    """
    points = coordinates(model, dict(summaries)).numpy()
    panels = add_code_columns(columns, model, summaries)
    return plot_latents(points, panels, title, palettes, units, _proportions(model, summaries), groups)


def latent_figures(
    model: VAE, data: Any, summaries: Mapping[str, Tensor], umap: bool = True, columns: Any = None
) -> dict[str, Figure]:
    """Return the figures of the latents by name.

    These are ``umap``; ``topics_<name>`` of each Dirichlet latent, by label or else by Leiden cluster;
    ``code_usage_<name>`` of each discrete latent; and ``active_units`` of the continuous ones. Without a UMAP, topics
    are bars by label.

    Parameters
    ----------
    model, data : VAE, DataModule
        Model, and the data whose observations are summarized.
    summaries : Mapping[str, Tensor], each of shape (observations, size)
        Result of :func:`vaekit.diagnostics.posterior_summaries` for all observations.
    umap : bool
        Whether to compute a UMAP, which is slow.
    columns : FigureColumns or None
        Columns that color the UMAP. None means ``data.figure_columns()``: batch and label.
    """
    labels = data.label_column
    if umap:
        figures = _umap_figures(model, summaries, columns or data.figure_columns(), labels)
    elif labels is not None:
        proportions = _proportions(model, summaries)
        figures = {f"topics_{name}": plot_topics(values, labels, name=name) for name, values in proportions.items()}
    else:
        figures = {}
    for name, usage in latent_usage(model, dict(summaries)).code_usage.items():
        figures[f"code_usage_{name}"] = _code_usage(model, labels, name, summaries[name], usage)
    if activities := coordinate_activities(model, summaries):
        figures["active_units"] = model_figures.active_units(activities, ACTIVE_VARIANCE)
    return figures


def _umap_figures(
    model: VAE,
    summaries: Mapping[str, Tensor],
    colored: Any,
    labels: pd.Categorical | None,
) -> dict[str, Figure]:
    """Return the UMAP, and the topics on it and by label, or by cluster without labels."""
    columns, palettes, units = colored  # FigureColumns
    points, panels = coordinates(model, dict(summaries)).numpy(), add_code_columns(columns, model, summaries)
    index = sample_points(len(points), embedding_figures.categorical_columns(panels))
    shown, positions = points[index], embedding_figures.umap_coordinates(points[index])
    title = embedding_figures.umap_title(len(index), len(points))
    subset = {name: values[index] for name, values in panels.items()}
    figures = {"umap": plot_embedding(positions, subset, title, palettes, units)}
    proportions = _proportions(model, summaries)
    clusters = embedding_figures.leiden_clusters(shown) if proportions and labels is None else None
    for name, values in proportions.items():
        figure = (
            plot_topics(values, labels, positions, name, index)
            if labels is not None
            else plot_topics(values[index], clusters, positions, name)
        )
        figures[f"topics_{name}"] = figure
    return figures


def _proportions(model: Any, summaries: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: summaries[name].numpy() for name, latent in model.latents.items() if latent.is_proportions}


def _code_usage(model: Any, labels: pd.Categorical | None, name: str, summary: Tensor, usage: Tensor) -> Figure:
    """Plot the mean probabilities of the states by label, or by variable if there are several or no labels."""
    latent = model.latents[name]
    states = [latent.state_name(0, s) for s in range(latent.size)] if latent.is_single_categorical else None
    if labels is not None and states is not None:
        known = np.unique(labels.codes[labels.codes >= 0])
        if len(known):
            means = np.stack([summary.numpy()[labels.codes == code].mean(0) for code in known])
            return model_figures.code_usage(name, means, labels.categories[known].astype(str), "label", states)
    return model_figures.code_usage(name, usage.numpy(), [str(i) for i in range(len(usage))], "variable", states)
