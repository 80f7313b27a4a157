"""Section on codes and topics: sizes, labels and marker genes."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from vaekit.analysis.markers import code_markers
from vaekit.analysis.report.page import Element, Fold, Paragraph, Picture, Section, Table, percent
from vaekit.analysis.report.subject import MAX_ROWS, Subject
from vaekit.diagnostics import code_table
from vaekit.exceptions import VaekitError
from vaekit.latents import Latent
from vaekit.latents.activity import ACTIVE_PROBABILITY
from vaekit.plotting import plot_topics
from vaekit.plotting.gene_figures import plot_markers

if TYPE_CHECKING:
    import pandas as pd

    from vaekit.data.cells.count_dataset import CellDataset

NUM_GENES, NUM_PLOTTED = 10, 4  # of each code, in the table and in the figure
MAX_PLOTTED_CODES = 16


def code_section(subject: Subject) -> Section | None:
    """Return the section on codes and topics; None if no latent has states."""
    names = subject.labeled_latents
    if not names:
        return None
    elements: list[Element] = []
    for name in names:
        elements += _latent_elements(subject, name)
    topics = [name for name in names if subject.model.latents[name].is_proportions]
    title = "Topics" if len(topics) == len(names) else "Codes and topics" if topics else "Codes"
    return Section(title, elements)


def _latent_elements(subject: Subject, name: str) -> list[Element]:
    latent = subject.model.latents[name]
    table, problem = _find_markers(subject, name)
    elements: list[Element] = [Paragraph(_explanation(latent, subject.noun)), _code_table(subject, name, table)]
    if problem:
        elements.append(Paragraph(f"Marker genes of {name}: {problem}"))
    if latent.is_proportions and subject.labels is not None:
        figure = plot_topics(subject.summaries[name].numpy(), subject.labels, name=name)
        alt = f"Stacked bars: mean proportions of the topics of {name} in the {subject.noun}s of each label."
        elements.append(Picture.from_figure(figure, alt, "Mean proportions of the topics per label."))
    if table is not None:
        codes = list(dict.fromkeys(table["code"]))[:MAX_PLOTTED_CODES]
        figure = plot_markers(table[table["code"].isin(codes)], NUM_PLOTTED, f"markers of {name}")
        alt = f"Heat map: log2 fold change of the top marker genes of each {_noun(latent)} of {name}."
        caption = (
            f"Expression of each {_noun(latent)}'s first {NUM_PLOTTED} markers in the other ones, as log2 fold change."
        )
        elements.append(Fold(f"Heat map of the markers of {name}", [Picture.from_figure(figure, alt, caption)]))
    return elements


def _explanation(latent: Latent, noun: str) -> str:
    if latent.is_proportions:
        return f"Each {noun} is a mixture of topics. It counts for the largest of its topics, and for their mean."
    return (
        f"The usage of a code is its mean probability over the {noun}s; each {noun} counts for its most probable code. "
        "A code can therefore be in use without being the most probable one anywhere."
    )


def _noun(latent: Latent) -> str:
    return latent.unit if latent.is_proportions else "code"


def _find_markers(subject: Subject, name: str) -> tuple[pd.DataFrame | None, str]:
    """Return the marker genes of each code, or the reason why the table is missing ("" for images)."""
    data, model = subject.data, subject.model
    if not subject.has_counts or data is None:
        return None, ""
    try:
        table = code_markers(
            model,
            name,
            subject.summaries[name],
            cast("CellDataset", data.dataset),
            model.features,
            seed=subject.seed,
        )
    except VaekitError as error:
        return None, str(error)
    return table, ""


def _code_table(subject: Subject, name: str, markers: pd.DataFrame | None) -> Table:
    """Return a row for each code: usage, size, most frequent label, and markers."""
    latent, labels = subject.model.latents[name], subject.labels
    table = code_table(subject.model, subject.summaries, name, labels)
    table = table[table["usage"] > ACTIVE_PROBABILITY].sort_values("usage", ascending=False, kind="stable")
    usage = "Mean proportion" if latent.is_proportions else "Usage"
    columns = [_noun(latent).capitalize(), usage, f"{subject.noun.capitalize()}s"]
    columns += ["Most frequent label"] * (labels is not None) + ["Markers"] * (markers is not None)
    rows = []
    for code in table.head(MAX_ROWS).to_dict("records"):
        row = [code["code"], percent(code["usage"]), f"{code['n']:,}"]
        if labels is not None:
            row.append(f"{code['label']} ({percent(code['label_fraction'])})" if code["label"] else "")
        if markers is not None:
            genes = markers.loc[(markers["code"] == code["code"]) & (markers["log2_fold_change"] > 0), "gene"]
            row.append(", ".join(genes.head(NUM_GENES)))
        rows.append(row)
    caption = f"{columns[0]}s of {name} with a {usage.lower()} above {percent(ACTIVE_PROBABILITY)}"
    if len(table) > MAX_ROWS:
        caption += f": the first {MAX_ROWS} of {len(table)}"
    return Table(caption, columns, rows, frozenset({0, *range(3, len(columns))}))
