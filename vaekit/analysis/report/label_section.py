"""Section on predicted labels: accuracy and reliability on held-out labeled cells."""

from __future__ import annotations

import numpy as np

from vaekit.analysis.label_predictor import LabelPredictor, have_labels_changed
from vaekit.analysis.report.page import Element, Paragraph, Picture, Section, Table, counted, number, percent
from vaekit.analysis.report.subject import MAX_ROWS, Subject
from vaekit.plotting.reliability_figure import plot_reliability

UNDEFINED = "\N{EN DASH}"


def label_section(subject: Subject) -> Section | None:
    """Return the section on predicted labels; None for a model without a label latent."""
    if subject.model.label_latent is None or subject.data is None or subject.data.observed_labels is None:
        return None
    if have_labels_changed(subject.model, subject.data):
        text = f"The labels of {subject.data.source} have changed since the training, so that they are not compared."
        return Section("Predicted labels", [Paragraph(text)])
    predictor = LabelPredictor(subject.model, subject.data)
    noun, count = subject.noun, predictor.num_held_out
    text = (
        f"Training used the labels of {counted(predictor.num_training, f'{noun}')}. Probabilities have the temperature "
        f"{number(predictor.temperature, 2)}"
    )
    if not count:
        text += f", a default: no labeled {noun} is held out, so that the accuracy is not known."
        return Section("Predicted labels", [Paragraph(text), _label_table(predictor, noun)])
    text += (
        f", which is fitted to the labels of {counted(count, f'held-out {noun}')}. Of these, "
        f"{percent(predictor.is_right.mean())} have the right label. The expected calibration error is "
        f"{number(predictor.calibration_error, 3)}; it is slightly too low, because it uses the same {noun}s as the "
        "temperature."
    )
    alt = f"Reliability diagram: fraction of right labels against their probability, for {count} held-out {noun}s."
    caption = f"Calibrated probabilities lie on the diagonal. Bars are 95 % intervals. Below: number of {noun}s."
    picture = Picture.from_figure(plot_reliability(predictor.reliability), alt, caption)
    elements: list[Element] = [Paragraph(text), _label_table(predictor, noun), picture]
    return Section("Predicted labels", elements)


def _label_table(predictor: LabelPredictor, noun: str) -> Table:
    """Return the number of labeled cells of each label, and the accuracy on the held-out ones."""
    names = predictor.model.label_names
    training = np.bincount(predictor.training_codes, minlength=len(names))
    held_out = np.bincount(predictor.held_out_codes, minlength=len(names))
    right = np.bincount(predictor.held_out_codes, predictor.is_right, minlength=len(names))
    rows = [
        [name, f"{training[code]:,}", f"{held_out[code]:,}",
         percent(right[code] / held_out[code]) if held_out[code] else UNDEFINED]
        for code, name in enumerate(names)
    ]  # fmt: skip
    caption = f"Labeled {noun}s" + (f": the first {MAX_ROWS} of {len(rows)} labels" if len(rows) > MAX_ROWS else "")
    return Table(caption, ["Label", "Training", "Held out", "Right"], rows[:MAX_ROWS])
