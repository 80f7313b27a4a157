"""Section on the data: source, size, batches, labels, split and fingerprint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from vaekit.analysis.report.page import Element, Facts, Paragraph, Section, Table, counted, number, percent
from vaekit.analysis.report.subject import MAX_ROWS, Subject
from vaekit.data.splits import SPLITS
from vaekit.plotting.palettes import MISSING

if TYPE_CHECKING:
    import pandas as pd

    from vaekit.data.data_module import DataModule


def data_section(subject: Subject) -> Section:
    """Return the section on the data."""
    elements: list[Element] = []
    if subject.data is None:
        elements.append(
            Paragraph(
                "The training data were not available when this report was written. It is limited to the contents of "
                "the checkpoint."
            )
        )
    if subject.registry:
        elements.append(Facts(_facts(subject)))
    if subject.data is not None:
        columns = subject.data.figure_columns().values
        elements += [_category_table(title, values, subject) for title, values in columns.items()]
    elif names := subject.registry.get("label_categories"):
        elements.append(Paragraph(f"Labels: {', '.join(names[:MAX_ROWS])}."))
    elements += _mappings(subject)
    return Section("Data", elements)


def _facts(subject: Subject) -> list[tuple[str, str]]:
    registry = subject.registry
    arguments = registry["config"]["init_args"]
    rows = [("Source", subject.facts.shareable(str(registry["source"])))]
    size = counted(registry["num_rows"], subject.noun)
    if subject.has_counts:
        genes = counted(len(registry["feature_names"]), "gene")
        chosen = (
            f" (the most variable ones: n_top_genes={arguments['n_top_genes']})" if arguments["n_top_genes"] else ""
        )
        rows += [("Size", f"{size}, {genes}{chosen}"), ("Counts", str(registry["matrix"]))]
        rows.append(("Batches", _column(registry["batch_categories"], arguments["batch_key"], "batch")))
        if others := _covariates(subject):
            rows.append(("Other covariates", others))
        rows.append(("Size factors", registry["size_factor_key"] or "total counts"))
    else:
        shape = " x ".join(map(str, registry.get("image_shape", ())))
        rows.append(("Size", f"{size}, channels x height x width = {shape}" if shape else size))
        if "binarization" in arguments:
            rows.append(("Binarization", str(arguments["binarization"])))
    rows.append(("Labels", _column(registry["label_categories"], arguments.get("label_key"), "label")))
    sizes = [len(registry["split_indices"][name]) for name in SPLITS]
    rows.append(("Split", " / ".join(f"{count:,} {name}" for count, name in zip(sizes, SPLITS, strict=True))))
    rows.append(("Fingerprint", f"{registry['fingerprint']} (hash of the content; the same data have the same one)"))
    return rows


def _column(categories: Sequence[str], key: str | None, noun: str) -> str:
    if not categories:
        return "none"
    return counted(len(categories), noun) + (f" in the column {key}" if key else "")


def _covariates(subject: Subject) -> str:
    registry = subject.registry
    categorical = [f"{key} ({len(names)} categories)" for key, names in registry["categorical_covariate_keys"].items()]
    return ", ".join([*categorical, *registry["continuous_covariate_keys"]])


def _category_table(title: str, values: pd.Categorical, subject: Subject) -> Table:
    """Return the number of observations of each category, in total and by split."""
    data: DataModule | None = subject.data
    assert data is not None
    codes, size = np.asarray(values.codes), len(values.categories)
    totals = np.bincount(codes[codes >= 0], minlength=size)
    parts = {name: codes[data.split_indices[name].numpy()] for name in SPLITS}
    counts = {name: np.bincount(part[part >= 0], minlength=size) for name, part in parts.items()}
    rows = [
        [str(values.categories[code]), f"{totals[code]:,}", percent(totals[code] / len(codes)),
         *(f"{counts[name][code]:,}" for name in SPLITS)]
        for code in range(size)
    ]  # fmt: skip
    if len(rows) > MAX_ROWS:
        rows = [*rows[:MAX_ROWS], [f"{len(rows) - MAX_ROWS} more", *([""] * (2 + len(SPLITS)))]]
    if unknown := int((codes < 0).sum()):
        rows.append([MISSING, f"{unknown:,}", percent(unknown / len(codes)), *([""] * len(SPLITS))])
    caption = f"{subject.noun.capitalize()}s by {subject.title(title)}"
    return Table(caption, [title, f"{subject.noun.capitalize()}s", "Fraction", *SPLITS], rows)


def _mappings(subject: Subject) -> list[Element]:
    """Return the table of the cells by which the model was extended, if there are any."""
    mappings = subject.registry.get("mappings", ())
    if not mappings:
        return []
    rows = [
        [subject.facts.shareable(str(each["source"])),
         ", ".join(f"{name} ({count})" for name, count in each["batches"].items()), f"{each['num_steps']:,}",
         number(each["elbo_before"]), number(each["elbo_after"])]
        for each in mappings
    ]  # fmt: skip
    columns = ["Cells", "New batches (cells)", "Steps", "ELBO before", "ELBO after"]
    text = (
        "The model was extended by the batches of new cells (vaekit map). Only parameters of the new batches were "
        "trained, so that the results for the training data are the same as before."
    )
    return [Paragraph(text), Table("Cells mapped to the model", columns, rows, frozenset({0, 1}))]
