"""Section on the posterior predictive check of counts."""

from __future__ import annotations

from typing import Any

import torch

from vaekit.analysis.decoding import PosteriorSampler
from vaekit.analysis.predictive_check import replicate_cells, summarize_genes
from vaekit.analysis.report.page import Paragraph, Picture, Section, counted, number
from vaekit.analysis.report.subject import SUMMARY_BATCH, Subject, spread
from vaekit.exceptions import VaekitError
from vaekit.plotting.analysis_figures import plot_predictive_check

NUM_REPLICATES = 5


def predictive_section(subject: Subject) -> Section | None:
    """Return the section on the posterior predictive check; None for other data than counts."""
    title = "Posterior predictive check"
    data: Any = subject.data
    if not subject.has_counts:
        return None
    index = torch.from_numpy(spread(len(data.dataset)))
    sampler = PosteriorSampler(subject.model, NUM_REPLICATES, SUMMARY_BATCH, subject.seed)
    try:
        table, _ = replicate_cells(sampler, data.dataset, index, data.obs_names)
    except VaekitError as error:
        return Section(title, [Paragraph(str(error))])
    summary = summarize_genes(table)
    cells = counted(len(index), "cell")
    if len(index) < len(data.dataset):
        cells += f" of {len(data.dataset):,}, equally spaced"
    text = (
        f"The model generates each of {cells} {NUM_REPLICATES} times, from its own latents. If the model describes the "
        "counts, the statistics of the genes are the same in the data and in these replicates. Over the genes, the "
        f"median ratio of replicated to observed variance is {number(summary['ratio_variance'], 2)} (1 is best), that "
        f"of the means {number(summary['ratio_mean'], 2)}, and the fractions of zeros differ by "
        f"{number(summary['zero_fraction_error'], 3)} on average."
    )
    alt = (
        f"Two scatter plots of {len(table):,} genes. Left: variance against mean, in the data and in the replicates. "
        "Right: fraction of zeros in the replicates against that in the data, near the diagonal if they agree."
    )
    caption = "Left: mean and variance of each gene. Right: fraction of zeros of each gene."
    return Section(title, [Paragraph(text), Picture.from_figure(plot_predictive_check(table), alt, caption)])
