"""Figures of names that matplotlib would read as formulas: labels, genes, estimators and titles."""

from __future__ import annotations

import io
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from vaekit.diagnostics.latent_figures import _code_usage
from vaekit.latents import Categorical
from vaekit.plotting import embedding_figures, plot_embedding, plot_gradient_report, plot_topics
from vaekit.plotting.analysis_figures import plot_predictive_check, plot_volcano
from vaekit.plotting.blocks import stack_blocks
from vaekit.plotting.expression_figures import plot_cells, plot_dots
from vaekit.plotting.gene_figures import plot_gene_means, plot_genes, plot_markers
from vaekit.plotting.model_figures import code_usage, elbo_curves
from vaekit.plotting.palettes import category_colors
from vaekit.plotting.state_figures import _MarkerBlock
from vaekit.plotting.transfer_figures import plot_transferred_labels

NAME = r"$\bad$ x"  # not a formula
GENES = [r"$\frac$", "b$", "$c$"]
GROUPS = pd.Categorical([NAME, "b"] * 10)
POINTS, TABLE = np.random.default_rng(0).random((20, 3)), np.random.default_rng(0).random((2, 3))
EXPRESSION = pd.DataFrame(POINTS, columns=GENES)
BY_GROUP = pd.DataFrame(TABLE, index=[NAME, "b"], columns=GENES)
GENE_SETS, TWO_STATES = {NAME: GENES}, pd.DataFrame(index=["0", "1"])
CHECK = pd.DataFrame(
    {
        f"{column}{suffix}": POINTS[:, 0]
        for column in ("mean", "variance", "zero_fraction")
        for suffix in ("", "_replicated")
    }
)
DE = pd.DataFrame(
    {"comparison": NAME, "proba_not_de": 0.1, "is_de_fdr_0.05": True, "lfc_mean": TABLE[0], "delta": 0.2}, index=GENES
)
MARKERS = pd.DataFrame(
    {"code": ["0"] * 3 + ["1"] * 3, "gene": GENES * 2, "log2_fold_change": TABLE.ravel(), "n_cells": 5}
)
GRADIENTS = pd.DataFrame(
    {"estimator": [NAME], "error": "", "unbiased": True, "bias_noise": 0.1}
    | dict.fromkeys(("relative_std", "relative_bias", "milliseconds", "mse_x_time"), 1.0)
)
FIGURES: dict[str, Callable[[], Figure]] = {
    "code_usage": lambda: code_usage("y", TABLE, [NAME, "b"], "label"),
    "elbo_curves": lambda: elbo_curves({NAME: [[(1, 1.0, 1.0), (2, 2.0, 2.0)]]}),
    "plot_cells": lambda: plot_cells(EXPRESSION, GROUPS, GENE_SETS, NAME, NAME),
    "plot_dots": lambda: plot_dots(BY_GROUP, BY_GROUP, GENE_SETS, NAME),
    "plot_embedding": lambda: plot_embedding(POINTS[:, :2], {NAME: GROUPS, "n": POINTS[:, 0]}, NAME, units={"n": NAME}),
    "plot_gene_means": lambda: plot_gene_means(TABLE[0], TABLE[1], GENES),
    "plot_genes": lambda: plot_genes(POINTS, {NAME: EXPRESSION}),
    "plot_gradient_report": lambda: plot_gradient_report(GRADIENTS, NAME),
    "plot_markers": lambda: plot_markers(MARKERS, title=NAME),
    "plot_predictive_check": lambda: plot_predictive_check(CHECK, NAME),
    "plot_topics": lambda: plot_topics(POINTS, GROUPS, name=NAME),
    "plot_transferred_labels": lambda: plot_transferred_labels(
        POINTS, GROUPS, POINTS[:, 0], {NAME: GROUPS}, title=NAME
    ),
    "plot_volcano": lambda: plot_volcano(DE),
    "states": lambda: stack_blocks([_MarkerBlock(BY_GROUP.T, TWO_STATES, ["red", "blue"])], NAME),
}


@pytest.mark.parametrize("name", FIGURES)
def test_names_are_not_formulas(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_figures, "umap_coordinates", lambda points, seed=0: points[:, :2])
    FIGURES[name]().savefig(io.BytesIO(), format="png", dpi=40)


def test_equal_texts_of_different_categories_have_two_colors_and_rows() -> None:
    assert len(set(category_colors([1, "1", "b"]))) == 3
    assert category_colors([1, "b"], {"1": "red"})[0] == "red"
    model = SimpleNamespace(latents={"y": Categorical(2)})
    probabilities = torch.eye(2).repeat(10, 1)
    labels = pd.Categorical.from_codes([0, 1] * 10, [1, "1"])
    figure = _code_usage(model, labels, "y", probabilities, probabilities.mean(0))
    assert figure.axes[0].images[0].get_array().tolist() == [[1, 0], [0, 1]]
