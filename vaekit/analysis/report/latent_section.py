"""Sections on the latents: dimensions and codes in use, agreement with labels, and UMAP."""

from __future__ import annotations

import numpy as np

from vaekit.analysis.report.page import Element, Gallery, Key, Paragraph, Picture, Section, Table, Tile, counted, number
from vaekit.analysis.report.subject import Subject
from vaekit.diagnostics import latent_usage
from vaekit.diagnostics.usage import coordinate_activities, coordinates
from vaekit.latents.activity import ACTIVE_VARIANCE
from vaekit.plotting import embedding_figures, model_figures
from vaekit.plotting.map_panel import plot_map
from vaekit.plotting.palettes import MISSING, NO_COLORS
from vaekit.plotting.points import sample_points

MIN_POINTS = 4  # of a UMAP
MAX_KEYS, NUM_NAMED = 60, 5  # categories in the key of a UMAP, and in its description


def usage_tiles(subject: Subject) -> list[Tile]:
    """Return the dimensions and codes in use, and the agreement with labels, for the top of the page."""
    usage, tiles = latent_usage(subject.model, subject.summaries), []
    if usage.units:
        tiles.append(Tile("Active dimensions", f"{usage.active_units} of {usage.units}"))
    for name, states in list(usage.code_usage.items())[:2]:
        tiles.append(Tile(f"Codes of {name} in use", f"{usage.used_codes(name)} of {states.numel()}"))
    if (agreement := subject.agreement) is not None:
        note = f"of {agreement.clusters} with labels"
        tiles.append(Tile("Adjusted Rand index", number(agreement.ari, 2), note))
    return tiles


def latent_section(subject: Subject) -> Section:
    """Return the section on dimensions and codes in use."""
    model = subject.model
    rows = []
    for name, latent in model.latents.items():
        activity = latent.activity(latent.moments(subject.summaries[name]))
        active = int((activity > latent.active_threshold).sum())
        unit = "states" if latent.discrete else f"{latent.unit}s"
        note = " (library size)" if latent.is_nuisance else ""
        rows.append([name, type(latent).__name__ + note, f"{active} of {activity.numel()} {unit}"])
    elements: list[Element] = [
        Paragraph(
            f"A dimension is in use if its posterior mean varies over the {subject.noun}s (variance above "
            f"{ACTIVE_VARIANCE:g}), and a state if its probability does. Latents that are not in use carry no "
            f"information about the {subject.noun}s; fewer than offered are not a fault."
        ),
        Table("Latents in use", ["Latent", "Distribution", "In use"], rows, frozenset({0, 1, 2})),
    ]
    if activities := coordinate_activities(model, subject.summaries):
        alt = "Bar plot of the activity of each dimension, sorted: " + "; ".join(
            f"{name} from {values.max():.2g} to {values.min():.2g}" for name, (values, _) in activities.items()
        )
        figure = model_figures.active_units(activities, ACTIVE_VARIANCE)
        caption = "Activity of each dimension: the variance over the data of its posterior mean."
        if any(unit == "topic" for _, unit in activities.values()):
            caption = "Activity of each topic: its mean proportion, or the part of its variation that the data explain."
        elements.append(Picture.from_figure(figure, f"{alt}.", caption))
    if (agreement := subject.agreement) is not None:
        values = [number(value, 3) for value in (agreement.ari, agreement.nmi, agreement.accuracy)]
        columns = ["Clusters", "Adjusted Rand index", "Mutual information", "Accuracy"]
        elements.append(
            Paragraph(
                "Training does not use the labels. The measures are 1 if clusters and labels are the same; the "
                "adjusted Rand index is 0 for random clusters. For the accuracy, clusters and labels are matched one "
                "to one."
            )
        )
        elements.append(Table("Agreement with the labels", columns, [[agreement.clusters, *values]]))
    return Section("Latents in use", elements)


def umap_section(subject: Subject) -> Section:
    """Return the section with the UMAP of the latents, one figure for each column that colors it."""
    points = coordinates(subject.model, subject.summaries).numpy()
    if len(points) < MIN_POINTS:
        return Section("UMAP", [Paragraph(f"{counted(len(points), subject.noun)} are too few for a UMAP.")])
    columns = subject.columns
    index = sample_points(len(points), embedding_figures.categorical_columns(columns.values))
    positions = embedding_figures.umap_coordinates(points[index])
    shown = f"all {counted(len(points), subject.noun)}"
    if len(index) < len(points):
        shown = f"{len(index):,} of {counted(len(points), subject.noun)}, chosen at random"
    pictures = [_map(subject, positions, index, column) for column in columns.values]
    if not pictures:
        alt = "Scatter plot of the UMAP, without colors."
        pictures = [Picture.from_figure(plot_map(positions, None)[0], alt, "No labels, batches or codes.")]
    text = (
        f"UMAP of the latents of {shown}. Neighbors in the figure are neighbors in latent space; distances between "
        "groups, and their sizes, have no meaning."
    )
    return Section("UMAP", [Paragraph(text), Gallery(pictures)])


def _map(subject: Subject, positions: np.ndarray, index: np.ndarray, column: str) -> Picture:
    """Return the UMAP in the colors of a column, with the number of observations of each category."""
    values, title = subject.columns.values[column], subject.title(column)
    if isinstance(values, np.ndarray):
        units = subject.columns.units
        figure = embedding_figures.plot_embedding(positions, {column: values[index]}, units=units)
        return Picture.from_figure(
            figure, f"Scatter plot of the UMAP, colored by the numbers of {title}.", f"By {title}"
        )
    figure, colors = plot_map(positions, values[index], subject.columns.palettes.get(column, NO_COLORS))
    codes = np.asarray(values.codes)
    counts = np.bincount(codes + 1, minlength=len(values.categories) + 1)
    keys = [
        Key(colors[code], str(name), int(counts[code + 1]))
        for code, name in enumerate(values.categories)
        if counts[code + 1]
    ]
    if (hidden := len(keys) - MAX_KEYS) > 0:
        keys = sorted(keys, key=lambda key: -key.count)[:MAX_KEYS]
    if counts[0]:
        keys.append(Key(colors[-1], MISSING, int(counts[0])))
    largest = ", ".join(key.name for key in sorted(keys, key=lambda key: -key.count)[:NUM_NAMED])
    alt = f"Scatter plot of the UMAP, colored by {title}. Largest groups: {largest}."
    caption = f"By {title}" + f"; the {MAX_KEYS} largest groups" * (hidden > 0)
    return Picture.from_figure(figure, alt, caption, keys)
