"""Section on images: reconstructions, samples and traversals."""

from __future__ import annotations

from vaekit.analysis.report.page import Element, Picture, Section
from vaekit.analysis.report.subject import Subject
from vaekit.diagnostics import image_figures
from vaekit.diagnostics.generation import gaussian_latents, single_categories


def image_section(subject: Subject) -> Section | None:
    """Return the section on images; None for other data. Without the data, it contains samples only."""
    shape = tuple(subject.registry.get("image_shape", ()))
    if not shape:
        return None
    model, data = subject.model, subject.data
    elements: list[Element] = []
    if data is not None:
        alt = "Two rows of images: test images, and below each its reconstruction."
        figure = image_figures.reconstructions(model, data)
        elements.append(Picture.from_figure(figure, alt, "Test images and their reconstructions by the model."))
    alt = "Grid of images that the model generates."
    elements.append(Picture.from_figure(image_figures.samples(model, shape), alt, "New images, from the prior."))
    for name in single_categories(model):
        if model.latents[name].size <= image_figures.MAX_CATEGORIES:
            alt = f"Grid of generated images with a row for each category of {name}."
            caption = f"New images of each category of {name}. Categories that are not in use may be unclear."
            elements.append(Picture.from_figure(image_figures.categories(model, name, shape), alt, caption))
    if data is not None:
        first = next(iter(data.dataloader("test", batch_size=1)))
        for name in gaussian_latents(model):
            alt = f"Grid of images with a row for each dimension of {name}, which changes from left to right."
            caption = f"Each row changes one dimension of {name}, by standard deviations of its prior."
            figure = image_figures.traversals(model, name, first, shape)
            elements.append(Picture.from_figure(figure, alt, caption))
    return Section("Images", elements)
