"""Figures of a model and its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit.plotting.names import as_text, shorten_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROBUST_QUANTILE = 0.1  # lower limit of ELBO axes: the first epochs would flatten the rest


def curves(history: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """Plot the ELBO of training and validation data, and the KL divergence of each latent, over epochs.

    Parameters
    ----------
    history : Mapping[str, Sequence]
        Points ``(epoch, value)`` by metric, such as ``"val/elbo"`` or ``"train/kl_z"``.
    """
    figure, axes = _subplots(2, width=5.5)
    elbos = {name: points for name, points in history.items() if name.endswith("/elbo")}
    divergences = {n: p for n, p in history.items() if "/kl_" in n and not n.endswith("/kl_weight")}
    _plot_lines(axes[0], elbos, title="evidence lower bound", xlabel="epoch", ylabel="nats")
    _plot_lines(axes[1], divergences, title="KL divergence", xlabel="epoch", ylabel="nats")
    _limit_elbo(axes[:1], [value for points in elbos.values() for _, value in points])
    return figure


def schedules(history: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """Plot the KL weight (beta) and the temperature of each latent over epochs.

    Parameters
    ----------
    history : Mapping[str, Sequence]
        Points ``(epoch, value)`` by metric. The figure uses ``train/kl_weight`` and ``train/temperature_<name>``.
    """
    metrics = {name.removeprefix("train/"): points for name, points in history.items()}
    weights = {name: points for name, points in metrics.items() if name == "kl_weight"}
    temperatures = {name: points for name, points in metrics.items() if name.startswith("temperature_")}
    figure, axes = _subplots(1 + bool(temperatures), height=3.2)
    for axis, title, lines in zip(axes, ("KL weight (beta)", "temperature"), (weights, temperatures), strict=False):
        _plot_lines(axis, lines, marker=".", title=title, xlabel="epoch")
        axis.set_ylim(bottom=0)
    return figure


def elbo_curves(runs: Mapping[str, Sequence[Sequence[tuple[int, float, float]]]]) -> Figure:
    """Plot the validation ELBO of several models over training steps and over training time.

    Parameters
    ----------
    runs : Mapping[str, Sequence]
        For each model, one curve per seed of points ``(step, seconds, elbo)``. Each model has a color.
    """
    figure, axes = _subplots(2, width=5.5)
    for i, (name, seeds) in enumerate(runs.items()):
        for j, points in enumerate(seeds):
            style = {"color": f"C{i}", "linewidth": 1.2, "marker": "." if len(points) < 20 else None}
            for column, axis in enumerate(axes):
                axis.plot(
                    [p[column] for p in points], [p[2] for p in points], label=None if j else as_text(name), **style
                )
    _limit_elbo(axes, [p[2] for seeds in runs.values() for points in seeds for p in points if np.isfinite(p[2])])
    axes[0].set(xlabel="training step", ylabel="validation ELBO (nats)")
    axes[1].set(xlabel="training time (s)")
    axes[0].legend(fontsize=7, frameon=False)
    return figure


def code_usage(
    name: str, probabilities: np.ndarray, rows: Sequence[str], ylabel: str, states: Sequence[str] | None = None
) -> Figure:
    """Plot mean probabilities of the states of a latent as a heat map.

    Parameters
    ----------
    name : str
        Name of the latent.
    probabilities : array, shape (rows, states)
        Mean probabilities.
    rows : Sequence[str]
        Names of the rows: labels, or variables.
    ylabel : str
        Label of the vertical axis.
    states : Sequence[str] or None
        Names of the states; None means their numbers.
    """
    num_rows, num_states = probabilities.shape
    figure, (axis,) = _subplots(width=max(4.0, 1.8 + 0.34 * num_states), height=max(2.0, 1.1 + 0.28 * num_rows))
    image = axis.imshow(probabilities, aspect="auto", cmap="magma", vmin=0, vmax=1)
    axis.set(title=f"usage of code {name}", xlabel="state", ylabel=ylabel)
    axis.set_yticks(range(num_rows), shorten_names(rows), fontsize=7)
    is_numbered = states is None or all(state.isdecimal() for state in states)
    axis.set_xticks(range(num_states), shorten_names(states or map(str, range(num_states))), fontsize=7)
    axis.tick_params(axis="x", rotation=0 if is_numbered else 90)
    figure.colorbar(image, label="mean probability")
    return figure


def active_units(activities: Mapping[str, tuple[np.ndarray, str]], threshold: float) -> Figure:
    """Plot the activity of each dimension or topic, in decreasing order.

    Parameters
    ----------
    activities : Mapping[str, tuple[array, str]], arrays of shape (size,)
        Activities and the name of their unit, by the name of the latent: for a ``"dimension"``, the variance over the
        data of the posterior mean.
    threshold : float
        Activity above which a dimension or topic is active.
    """
    figure, axes = _subplots(len(activities), width=5.0, height=3.2)
    for axis, (name, (values, unit)) in zip(axes, activities.items(), strict=True):
        order = np.argsort(-values, kind="stable")
        axis.bar(range(len(values)), values[order], color="tab:blue")
        axis.axhline(threshold, color="tab:red", linestyle="--", label=f"active above {threshold:g}")
        num_active = int((values > threshold).sum())
        axis.set(yscale="log", xlabel=unit, title=f"{name}: {num_active} of {len(values)} {unit}s active",
                 ylabel="variance of the posterior mean" if unit == "dimension" else "activity")  # fmt: skip
        axis.set_xticks(range(len(values)), order, fontsize=6)
        axis.set_ylim(min(threshold / 10, values.min() / 2 + 1e-9))
        axis.legend(fontsize=8, frameon=False)
    return figure


def image_grid(images: np.ndarray, rows: Sequence[str] = (), columns: Sequence[str] = (), title: str = "") -> Figure:
    """Plot images in rows and columns.

    Parameters
    ----------
    images : array, shape (rows, columns, channels, height, width)
        Images with values in 0..1 and one or three channels.
    rows, columns : Sequence[str]
        Names of the rows and columns; an axis without names does not have ticks.
    title : str
        Title of the figure.
    """
    num_rows, num_columns, channels, height, width = images.shape
    padded = np.pad(images, [(0, 0)] * 3 + [(0, 1)] * 2, constant_values=1.0)  # a white pixel between images
    sheet = padded.transpose(0, 3, 1, 4, 2).reshape(num_rows * (height + 1), num_columns * (width + 1), channels)
    sheet = sheet[:-1, :-1]
    scale = 0.6 / max(height, width)  # inches per pixel
    figure, (axis,) = _subplots(width=0.9 + scale * sheet.shape[1], height=0.6 + scale * sheet.shape[0])
    axis.imshow(sheet.clip(0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axis.set_xticks(_centers(num_columns, width) if len(columns) else [], columns, fontsize=7)
    axis.set_yticks(_centers(num_rows, height) if len(rows) else [], rows, fontsize=7)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set_title(title, fontsize=9)
    return figure


def _centers(count: int, size: int) -> np.ndarray:
    return np.arange(count) * (size + 1) + (size - 1) / 2


def _subplots(columns: int = 1, width: float = 4.5, height: float = 4.0) -> tuple[Figure, Any]:
    """Return a figure without a window, and its axes in one row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _plot_lines(
    axis: Any, lines: Mapping[str, Sequence[tuple[float, float]]], marker: str | None = None, **labels: str
) -> None:
    """Plot points ``(epoch, value)`` by metric: a color per metric, and dashes for validation data."""
    colors: dict[str, str] = {}
    for name, points in sorted(lines.items()):
        if points:
            color = colors.setdefault(name.rpartition("/")[2], f"C{len(colors)}")
            style = {"color": color, "linestyle": "--" if name.startswith("val/") else "-"}
            marker_of_line = marker or ("o" if len(points) == 1 else None)  # a single point would be invisible
            axis.plot(*zip(*points, strict=True), label=name, marker=marker_of_line, **style)
    axis.set(**labels)
    if axis.lines:
        axis.legend(fontsize=8, frameon=False)


def _limit_elbo(axes: Any, values: Sequence[float]) -> None:
    if len(values) > 8:
        low, high = np.quantile(values, ROBUST_QUANTILE), max(values)
        for axis in axes:
            axis.set_ylim(low, high + 0.05 * (high - low))
