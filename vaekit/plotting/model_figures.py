"""Figures: functions from arrays to matplotlib figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit._core.threads import keep_threads

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

UMAP_ROWS = 20_000  # beyond that a picture shows no more, and takes minutes


def _figure(rows: int = 1, columns: int = 1, width: float = 4.5, height: float = 4.0) -> tuple[Figure, Any]:
    """Return a figure that belongs to no window system, and its axes ``[rows, columns]``."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def umap_coordinates(points: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return UMAP coordinates ``[rows, 2]`` of points ``[rows, units]``, by scanpy's neighbours and UMAP."""
    import anndata
    import scanpy as sc

    keep_threads()
    cells = anndata.AnnData(np.asarray(points, dtype=np.float32))
    # scanpy's rule needs more rows than neighbours; tiny data sets have few. Exact neighbours: seconds at this size,
    # and beyond 8,192 rows scanpy's own choice, pynndescent, fails from its release 0.7 on.
    neighbors = max(2, min(15, len(points) - 1))
    sc.pp.neighbors(cells, n_neighbors=neighbors, use_rep="X", transformer="sklearn", random_state=seed)
    sc.tl.umap(cells, random_state=seed)
    return np.asarray(cells.obsm["X_umap"])


def scatter(coordinates: np.ndarray, colours: Mapping[str, pd.Categorical], title: str = "") -> Figure:
    """Draw the same points once for each colouring.

    Parameters
    ----------
    coordinates
        ``[rows, 2]``.
    colours
        Categories of the rows, by the panel's title; colors and legend follow their order. Missing ones are gray.
    title
        Of the figure.
    """
    import matplotlib as mpl

    figure, axes = _figure(1, len(colours), width=5.6)
    size = float(np.clip(12_000 / max(1, len(coordinates)), 0.5, 14))
    for axis, (name, values) in zip(axes[0], colours.items(), strict=True):
        codes, categories = np.asarray(values.codes), [*map(str, values.categories), "unknown"]
        colour_map = mpl.colormaps["tab10" if len(categories) <= 11 else "tab20"]
        for code in sorted(set(codes.tolist()), key=lambda code: (code < 0, code)):
            rows, colour = codes == code, "lightgrey" if code < 0 else colour_map(code % colour_map.N)
            axis.scatter(*coordinates[rows].T, s=size, color=colour, label=categories[code], linewidths=0)
        axis.set(title=name, xlabel="UMAP 1", ylabel="UMAP 2", xticks=[], yticks=[])
        if len(categories) <= 24:
            axis.legend(fontsize=7, markerscale=2, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.suptitle(title)
    return figure


def curves(history: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """Draw the bound of training and validation data, and the KL divergence of each latent, over epochs.

    Parameters
    ----------
    history
        Points ``(epoch, value)`` by metric, such as ``"val/elbo"`` or ``"train/kl_z"``.
    """
    figure, axes = _figure(1, 2, width=5.5)
    for name, points in history.items():
        stage, _, metric = name.partition("/")
        axis = (
            axes[0, 0]
            if metric == "elbo"
            else axes[0, 1]
            if metric.startswith("kl_") and metric != "kl_weight"
            else None
        )
        if axis is not None and points:
            axis.plot(*zip(*points, strict=True), label=name, linestyle="-" if stage == "train" else "--")
    bound = [value for name, points in history.items() if name.endswith("/elbo") for _, value in points]
    if len(bound) > 8:  # the first epochs would flatten the rest
        axes[0, 0].set_ylim(np.quantile(bound, 0.08), max(bound) + 0.05 * (max(bound) - np.quantile(bound, 0.08)))
    axes[0, 0].set(title="evidence lower bound", xlabel="epoch", ylabel="nats")
    axes[0, 1].set(title="KL divergence", xlabel="epoch", ylabel="nats")
    for axis in axes[0]:
        if axis.lines:
            axis.legend(fontsize=8, frameon=False)
    return figure


def code_usage(name: str, probabilities: np.ndarray, rows: Sequence[str], ylabel: str) -> Figure:
    """Draw the mean probability of each state as a heat map.

    Parameters
    ----------
    name
        Name of the latent.
    probabilities
        ``[rows, states]``.
    rows
        Names of the rows: classes, or variables.
    ylabel
        What the rows are.
    """
    count, states = probabilities.shape
    figure, axes = _figure(width=max(4.0, 1.8 + 0.34 * states), height=max(2.0, 1.1 + 0.28 * count))
    image = axes[0, 0].imshow(probabilities, aspect="auto", cmap="magma", vmin=0, vmax=1)
    axes[0, 0].set(
        title=f"use of code {name}", xlabel="state", ylabel=ylabel, xticks=range(states), yticks=range(count)
    )
    axes[0, 0].set_yticklabels(rows, fontsize=7)
    axes[0, 0].tick_params(axis="x", labelsize=7)
    figure.colorbar(image, label="mean probability")
    return figure


def grid(
    pictures: np.ndarray,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    title: str = "",
) -> Figure:
    """Draw pictures in rows and columns.

    Parameters
    ----------
    pictures
        ``[rows, columns, channels, height, width]``, with values in 0..1 and one or three channels.
    rows, columns
        Their names; none are shown where there are none.
    title
        Of the figure.
    """
    down, across, channels, height, width = pictures.shape
    edge = 1  # pixels between pictures
    sheet = np.ones((down * (height + edge) - edge, across * (width + edge) - edge, channels))
    for i in range(down):
        for j in range(across):
            top, left = i * (height + edge), j * (width + edge)
            sheet[top : top + height, left : left + width] = pictures[i, j].transpose(1, 2, 0)
    scale = 0.6 / max(height, width)  # inches a pixel
    figure, axes = _figure(width=0.9 + scale * sheet.shape[1], height=0.6 + scale * sheet.shape[0])
    axis = axes[0, 0]
    axis.imshow(sheet.clip(0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    middles = [np.arange(n) * (size + edge) + (size - 1) / 2 for n, size in ((across, width), (down, height))]
    axis.set_xticks(middles[0] if len(columns) else [], columns, fontsize=7)
    axis.set_yticks(middles[1] if len(rows) else [], rows, fontsize=7)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set_title(title, fontsize=9)
    return figure


def reconstructions(originals: np.ndarray, means: np.ndarray) -> Figure:
    """Draw originals above their reconstructions.

    Parameters
    ----------
    originals, means
        Pictures ``[pictures, channels, height, width]`` with values in 0..1.
    """
    return grid(np.stack([originals, means]), rows=["original", "reconstruction"])


def active_units(variances: Mapping[str, np.ndarray], threshold: float) -> Figure:
    """Draw how much the posterior mean of each continuous unit varies over the data, the largest first.

    Parameters
    ----------
    variances
        ``[units]`` by the latent's name.
    threshold
        Above which a unit counts as active.
    """
    figure, axes = _figure(1, len(variances), width=5.0, height=3.2)
    for axis, (name, values) in zip(axes[0], variances.items(), strict=True):
        order = np.argsort(-values, kind="stable")
        axis.bar(range(len(values)), values[order], color="tab:blue")
        axis.axhline(threshold, color="tab:red", linestyle="--", label=f"active above {threshold:g}")
        axis.set(yscale="log", xlabel="unit", ylabel="variance of the posterior mean",
                 title=f"{name}: {int((values > threshold).sum())} of {len(values)} units active")  # fmt: skip
        axis.set_xticks(range(len(values)), order, fontsize=6)
        axis.set_ylim(min(threshold / 10, values.min() / 2 + 1e-9))
        axis.legend(fontsize=8, frameon=False)
    return figure


def schedules(history: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """Draw the KL weight (beta) and the temperature of each latent over epochs.

    Parameters
    ----------
    history
        Points ``(epoch, value)`` by metric; of these ``train/kl_weight`` and ``train/temperature_<name>``.
    """
    temperatures = {name: points for name, points in history.items() if name.startswith("train/temperature_")}
    figure, axes = _figure(1, 1 + bool(temperatures), width=4.5, height=3.2)
    panels = [("KL weight (beta)", {"train/kl_weight": history.get("train/kl_weight", [])})]
    if temperatures:
        panels.append(("temperature", temperatures))
    for axis, (title, lines) in zip(axes[0], panels, strict=True):
        for name, points in lines.items():
            if points:
                axis.plot(*zip(*points, strict=True), marker=".", label=name.removeprefix("train/"))
        axis.set(title=title, xlabel="epoch")
        axis.set_ylim(bottom=0)
        if axis.lines:
            axis.legend(fontsize=8, frameon=False)
    return figure


def bound_curves(runs: Mapping[str, Sequence[Sequence[tuple[int, float, float]]]]) -> Figure:
    """Draw the bound against training steps and against training time, a colour for each of several models.

    Parameters
    ----------
    runs
        For each model one curve a seed, of points ``(step, seconds, bound)``.
    """
    figure, axes = _figure(1, 2, width=5.5)
    for i, (name, curves_of_name) in enumerate(runs.items()):
        for j, points in enumerate(curves_of_name):
            for axis, place in zip(axes[0], (0, 1), strict=True):
                axis.plot([p[place] for p in points], [p[2] for p in points], color=f"C{i}", linewidth=1.2,
                          marker="." if len(points) < 20 else None, label=name if j == 0 else None)  # fmt: skip
    values = [p[2] for group in runs.values() for points in group for p in points if np.isfinite(p[2])]
    if len(values) > 8:  # the first epochs would flatten the rest
        low, high = np.quantile(values, 0.1), max(values)
        axes[0, 0].set_ylim(low, high + 0.05 * (high - low))
        axes[0, 1].set_ylim(axes[0, 0].get_ylim())
    axes[0, 0].set(xlabel="training step", ylabel="validation bound (nats)")
    axes[0, 1].set(xlabel="training time (s)")
    axes[0, 0].legend(fontsize=7, frameon=False)
    return figure
