"""Results of every function that reads cells, as tables with the names of cells or genes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from torch.utils.data import DataLoader

import vaekit.analysis as analysis
from analysis.transformations import Form
from vaekit.analysis.integration import principal_components, read_labeled_cells
from vaekit.data.dataset import identity_collate
from vaekit.latents import Categorical, Dirichlet, Gaussian
from vaekit.likelihoods import NegativeBinomial
from vaekit.models import VAE
from vaekit.networks import MLP, Linear

Tables = dict[str, pd.DataFrame]
LABELED_CHECKPOINT, LABELED_CELLS = "labeled.ckpt", "labeled.h5ad"  # next to the checkpoint of the commands
LABELED: dict[str, Any] = {}  # "model" with labels and its training "cells", set by a fixture of test_invariance.py


def _embed(form: Form, model: VAE, clean: AnnData) -> Tables:
    cells = form.cells
    analysis.embed(cells, model, layer=form.layer, batch_size=form.batch_size)
    return latent_tables(cells.obs, cells.obsm)


def latent_tables(obs: Any, obsm: Any) -> Tables:
    names = list(obs.index) if isinstance(obs, pd.DataFrame) else None
    tables = {key: pd.DataFrame(np.asarray(obsm[key]), index=names) for key in ("X_vaekit", "vaekit_y_probabilities")}
    return {**tables, "code": pd.DataFrame({"code": np.asarray(obs["vaekit_y"]).astype(float)}, index=names)}


def _latent_fields(form: Form, model: VAE, clean: AnnData) -> Tables:
    query = analysis.prepare_query(model, form.cells, form.layer, None)
    fields = analysis.latent_fields(query, model, batch_size=form.batch_size)
    return {key: table.set_axis(query.obs_names) for key, table in latent_tables(fields["obs"], fields["obsm"]).items()}


def _query(form: Form, model: VAE, clean: AnnData) -> Tables:
    query = analysis.prepare_query(model, form.cells, form.layer, None, "group")
    batch = query.dataset.__getitems__(range(len(query.dataset)))
    numbers = {"x": batch.x, "size_factor": batch.size_factor, "covariates": batch.covariates}
    tables = {key: pd.DataFrame(value.numpy(), index=query.obs_names) for key, value in numbers.items()}
    return {**tables, "label": pd.DataFrame({"label": query.labels}, index=query.obs_names)}


def _differential_expression(form: Form, model: VAE, clean: AnnData) -> Tables:
    arguments = {"layer": form.layer, "batch_size": form.batch_size}
    table = analysis.differential_expression(form.cells, model, "group", "cluster1", "cluster0", **arguments)
    every = analysis.differential_expression(form.cells, model, "group", **arguments)
    groups = [f"group == 'cluster{number}'" for number in (1, 0)]
    masks = (
        [form.cells.obs["group"] == f"cluster{number}" for number in (1, 0)] if hasattr(form.cells, "obs") else groups
    )
    by_mask, by_condition = (
        analysis.differential_expression(form.cells, model, group1=one, group2=other, **arguments).drop(columns=NAMES)
        for one, other in (masks, groups)
    )
    replicates = analysis.differential_expression(form.cells, model, "group", replicate_key="batch", **arguments)
    return {
        "genes": table,
        "order": pd.DataFrame({"gene": list(table.index)}),
        "every group": every.set_index(every["comparison"] + every.index),
        "masks": by_mask,
        "conditions": by_condition,
        "replicates": replicates.set_index(replicates["comparison"] + replicates.index),
    }


def _every_group(form: Form, model: VAE) -> pd.DataFrame:
    return analysis.differential_expression(
        form.cells, model, "group", layer=form.layer, batch_size=form.batch_size, fdr=0.2
    )


def _top_genes(form: Form, model: VAE, clean: AnnData) -> Tables:
    table = analysis.top_genes(_every_group(form, model), n=6)
    return {"top": table.set_index(table["comparison"] + table["gene"])}


def _plot_dotplot(form: Form, model: VAE, clean: AnnData) -> Tables:
    figure = analysis.plot_dotplot(_every_group(form, model), n=6)
    labels = [text.get_text() for axis in figure.axes for text in axis.get_xticklabels() + axis.get_yticklabels()]
    points = [np.asarray(part.get_sizes()) for axis in figure.axes[:1] for part in axis.collections]
    return {"labels": pd.DataFrame({"label": labels}), **{str(i): pd.DataFrame(part) for i, part in enumerate(points)}}


def _plot_heatmap(form: Form, model: VAE, clean: AnnData) -> Tables:
    figure = analysis.plot_heatmap(
        form.cells, model, _every_group(Form(clean.copy()), model), "group", layer=form.layer
    )
    images = [image.get_array() for axis in figure.axes for image in axis.images]
    largest = np.asarray(max(images, key=np.size), dtype=float)
    return {"values": pd.DataFrame(np.sort(largest, axis=0))}


def _normalized_expression(form: Form, model: VAE, clean: AnnData) -> Tables:
    arguments = {"layer": form.layer, "batch_size": form.batch_size}
    genes = list(clean.var_names)
    return {
        "each cell's batch": analysis.normalized_expression(
            form.cells, model, genes=genes, library_size="observed", **arguments
        ),
        "two batches": analysis.normalized_expression(
            form.cells, model, genes=genes, transform_batch=["0", "2"], num_samples=3, **arguments
        ),
        "another batch": analysis.normalized_expression(
            form.cells, model, genes=genes, covariates={"batch": "1"}, **arguments
        ),
    }


def _normalization(form: Form, model: VAE, clean: AnnData) -> Tables:
    query = analysis.prepare_query(model, form.cells, form.layer, None)
    into = np.empty((len(query.dataset), clean.n_vars), dtype=np.float32)
    analysis.NormalizedExpressionWriter(model, batch_size=form.batch_size).write(
        {"table": into}, query, list(clean.var_names)
    )
    return {"layer": pd.DataFrame(into, index=query.obs_names, columns=clean.var_names)}


def _predictive_check(form: Form, model: VAE, clean: AnnData) -> Tables:
    arguments = {"layer": form.layer, "batch_size": form.batch_size}
    table = analysis.posterior_predictive_check(form.cells, model, **arguments)
    if not isinstance(form.cells, AnnData):
        return {"genes": table}
    columns = [name for name in form.cells.obs if name.startswith("vaekit_ppc")]
    return {"genes": table, "cells": form.cells.obs[columns].copy()}


def _markers(form: Form, model: VAE, clean: AnnData) -> Tables:
    table = analysis.markers(form.cells, model, n_genes=40, layer=form.layer, batch_size=form.batch_size)
    return {"genes": table.set_index(table["code"] + table["gene"]).drop(columns=["code", "gene"])}


def _decode(form: Form, model: VAE, clean: AnnData) -> Tables:
    query = analysis.prepare_query(model, form.cells, form.layer)
    latents = analysis.latent_fields(query, model, batch_size=form.batch_size)["obsm"]["X_vaekit"]
    table = pd.DataFrame(latents, index=query.obs_names)
    return {"layer": analysis.decode(model, {"z": table}, {"batch": ["0", "2"]}, batch_size=form.batch_size)}


def linear_model(model: VAE) -> VAE:
    """Return a model of the same data with a linear decoder and random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        latents = {"y": Categorical(2), "z": Gaussian(2), "t": Dirichlet(2)}
        parts = (model.features, MLP([16]), latents, Linear(), NegativeBinomial())
        linear = VAE(*parts, covariates=model.covariates)
    linear.data_registry = model.data_registry
    return linear.eval()


def loading_rows(table: pd.DataFrame) -> Tables:
    keys = ["latent", "unit", "direction", "gene"]
    return {"genes": table.set_index(table[keys].astype(str).agg("-".join, axis=1)).drop(columns=keys)}


def _loadings(form: Form, model: VAE, clean: AnnData) -> Tables:
    return loading_rows(
        analysis.loadings(linear_model(model), form.cells, layer=form.layer, batch_size=form.batch_size)
    )


def _plot_loadings(form: Form, model: VAE, clean: AnnData) -> Tables:
    """Read the lengths of the bars and the names of the genes."""
    arguments = {"layer": form.layer, "batch_size": form.batch_size}
    figure = analysis.plot_loadings(analysis.loadings(linear_model(model), form.cells, **arguments), n_genes=3)
    return {
        axis.get_title(): pd.DataFrame(
            {"width": [bar.get_width() for bar in axis.patches]},
            index=[f"{place} {text.get_text()}" for place, text in enumerate(axis.get_yticklabels())],
        )
        for axis in figure.axes
    }


def _states(form: Form, model: VAE, clean: AnnData) -> Tables:
    found = analysis.states(form.cells, model, n_genes=40, layer=form.layer, batch_size=form.batch_size)
    genes = found.markers.set_index(["num_states", "state", "gene"])
    genes.index = ["-".join(map(str, names)) for names in genes.index]
    tables = {"states": found.states, "tree (proba)": found.tree, "bic": found.bic, "genes": genes}
    return {**tables, **_state_fields(form.cells)}


def _code_tree(form: Form, model: VAE, clean: AnnData) -> Tables:
    arguments = {"layer": form.layer, "batch_size": form.batch_size}
    table = analysis.code_tree(form.cells, model, num_states=2, **arguments)
    return {"tree (proba)": table, "state": form.cells.obs[["vaekit_code_states"]].astype(str)}


def _assign_states(form: Form, model: VAE, clean: AnnData) -> Tables:
    reference = clean.copy()
    analysis.states(reference, model)
    arguments = {"layer": form.layer, "batch_size": form.batch_size}
    analysis.assign_states(form.cells, model, reference.uns["vaekit_states"], **arguments)
    return _state_fields(form.cells)


def _state_fields(cells: AnnData) -> Tables:
    probabilities = pd.DataFrame(cells.obsm["vaekit_states_probabilities"], index=cells.obs_names)
    return {"state": cells.obs[["vaekit_states"]].astype(str), "probability": probabilities}


def _transfer_labels(form: Form, model: VAE, clean: AnnData) -> Tables:
    """Transfer labels from the cells to themselves; for a subset, from all cells."""
    part = isinstance(form.cells, AnnData) and form.cells.n_obs < clean.n_obs
    reference = clean.copy() if part else form.cells
    arguments = {"layer": form.layer, "batch_size": form.batch_size}
    analysis.transfer_labels(reference, form.cells, model, "group", n_neighbors=5, **arguments)
    obs = form.cells.obs
    return {
        "label": pd.DataFrame({"label": obs["group_transferred"].astype(str)}),
        "probability": pd.DataFrame({"proba": obs["group_transferred_uncertainty"]}),
    }


def _predict_labels(form: Form, model: VAE, clean: AnnData) -> Tables:
    arguments = {"training_data": LABELED["cells"], "layer": form.layer, "batch_size": form.batch_size}
    analysis.predict_labels(form.cells, LABELED["model"], key_added="result", **arguments)
    return prediction_tables(form.cells.obs)


def prediction_tables(obs: pd.DataFrame) -> Tables:
    names = ["probability", "uncertainty", "novelty"]
    return {
        "label": obs[["result", "result_second"]].astype(str),
        "probability": obs[[f"result_{name}" for name in names]].set_axis(["proba", "proba_wrong", "novelty"], axis=1),
    }


def _plot_reliability(form: Form, model: VAE, clean: AnnData) -> Tables:
    cells = clean.copy()
    _predict_labels(form._replace(cells=cells, layer=None), model, clean)
    axis = analysis.plot_reliability(cells.uns["result"]["reliability"]).axes[0]
    return {"points": pd.DataFrame(np.asarray(axis.lines[1].get_data()).T, columns=["x", "y"])}


def _integration_scores(form: Form, model: VAE, clean: AnnData) -> Tables:
    """Read the input of scib-metrics, which the extra "dev" does not install; test_integration.py computes scores."""
    query = analysis.prepare_query(model, form.cells, form.layer, None, "group")
    loader = DataLoader(query.dataset, batch_size=form.batch_size, collate_fn=identity_collate)
    cells = read_labeled_cells(model, loader)
    return {
        "latents": pd.DataFrame(cells.latents),
        "components": pd.DataFrame(principal_components(cells.counts)),
        "groups": pd.DataFrame({"label": cells.labels, "batch": cells.batches}),
    }


def _label_fields(form: Form, model: VAE, clean: AnnData) -> Tables:
    reference = analysis.prepare_query(model, clean.copy(), None, None, "group")
    query = analysis.prepare_query(model, form.cells, form.layer)
    fields = analysis.label_fields(reference, query, model, "group", batch_size=form.batch_size)
    (label, uncertainty), names = fields["obs"].values(), query.obs_names
    return {
        "label": pd.DataFrame({"label": np.asarray(label).astype(str)}, index=names),
        "probability": pd.DataFrame({"proba": uncertainty}, index=names),
    }


def _map_query(form: Form, model: VAE, clean: AnnData) -> Tables:
    """Map all cells as new ones: the model does not know the names of their batches."""
    reference, model.data_registry = model.data_registry, {**model.data_registry, "batch_categories": ["a", "b", "c"]}
    try:
        mapped = analysis.map_query(form.cells, model, layer=form.layer, max_epochs=3)
    finally:
        model.data_registry = reference
    names = [name.removesuffix(".0") for name in mapped.data_registry["batch_categories"]]
    assert sorted(names) == ["0", "1", "2", "a", "b", "c"]
    return _normalized_expression(Form(clean), mapped, clean)


def _plot_volcano(form: Form, model: VAE, clean: AnnData) -> Tables:
    figure = analysis.plot_volcano(_differential_expression(form, model, clean)["genes"])
    return {"names": pd.DataFrame({"gene": [text.get_text() for text in figure.axes[0].texts]})}


def _plot_umap(form: Form, model: VAE, clean: AnnData) -> Tables:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vaekit.plotting.embedding_figures.umap_coordinates", lambda points: points[:, :2])
        figure = analysis.plot_umap(form.cells, model, clean.var_names[:2].tolist(), layer=form.layer)
    tables = {}
    for axis in figure.axes:
        (dots,), bars = axis.collections, axis.child_axes
        places = np.asarray(dots.get_offsets())
        values = np.full((1, 2), bars[0].get_ylim()) if bars else dots.get_facecolors()
        order = np.lexsort(places.T.round(4))
        tables[axis.get_title()] = pd.DataFrame(np.hstack([places, values])[order] if not bars else values)
    return tables


def _plot_markers(form: Form, model: VAE, clean: AnnData) -> Tables:
    """Read the names on both axes, and the colors as fold changes."""
    arguments = {"n_genes": 40, "layer": form.layer, "batch_size": form.batch_size}
    axis, _ = analysis.plot_markers(analysis.markers(form.cells, model, **arguments), n_genes=3).axes
    codes, genes = ([text.get_text() for text in labels] for labels in (axis.get_yticklabels(), axis.get_xticklabels()))
    return {"heat map": pd.DataFrame(np.asarray(axis.images[0].get_array()), index=codes, columns=genes)}


def _plot_predictive_check(form: Form, model: VAE, clean: AnnData) -> Tables:
    figure = analysis.plot_predictive_check(_predictive_check(form, model, clean)["genes"])
    points = [np.asarray(part.get_offsets()) for axis in figure.axes for part in axis.collections]
    return {str(i): pd.DataFrame(part[np.lexsort(part.T.round(4))]) for i, part in enumerate(points)}


NAMES = ["comparison", "group1", "group2"]
ROWS: dict[str, Callable[[Form, VAE, AnnData], Tables]] = {
    "embed": _embed,
    "latent_fields": _latent_fields,
    "prepare_query": _query,
    "differential_expression": _differential_expression,
    "normalized_expression": _normalized_expression,
    "NormalizedExpressionWriter": _normalization,
    "posterior_predictive_check": _predictive_check,
    "markers": _markers,
    "decode": _decode,
    "loadings": _loadings,
    "states": _states,
    "assign_states": _assign_states,
    "code_tree": _code_tree,
    "transfer_labels": _transfer_labels,
    "label_fields": _label_fields,
    "predict_labels": _predict_labels,
    "map_query": _map_query,
    "integration_scores": _integration_scores,
    "top_genes": _top_genes,
    "plot_dotplot": _plot_dotplot,
    "plot_heatmap": _plot_heatmap,
    "plot_markers": _plot_markers,
    "plot_loadings": _plot_loadings,
    "plot_umap": _plot_umap,
    "plot_volcano": _plot_volcano,
    "plot_reliability": _plot_reliability,
    "plot_predictive_check": _plot_predictive_check,
}
# Functions of a model and names, or of its training data in their order: they do not read other cells.
WITHOUT_CELLS = {
    "report",  # tests/analysis/test_report.py
    "resolve_model",
    "get_data_registry",
    "load_training_data",
    "check_latent_fields",
    "check_label_fields",
    "States",
}
# Functions that write into an AnnData: a path raises an error.
INTO_ADATA = {
    "embed", "states", "assign_states", "code_tree", "normalized_expression", "transfer_labels", "predict_labels"
}  # fmt: skip
# Functions that write into an AnnData, but not into a file: a view of a backed AnnData raises an error.
INTO_ADATA_ONLY = {
    "differential_expression", "loadings", "markers", "plot_dotplot", "plot_loadings",
    "plot_markers", "plot_predictive_check", "plot_volcano",
    "posterior_predictive_check", "top_genes",
}  # fmt: skip
# Functions with one result per cell.
PER_CELL = {
    "embed", "latent_fields", "prepare_query", "normalized_expression", "NormalizedExpressionWriter",
    "posterior_predictive_check", "transfer_labels", "label_fields", "assign_states", "predict_labels", "decode",
}  # fmt: skip
TRAINING = {"map_query"}
# Functions and a command that read the training data, whose fingerprint has chunks of a fixed size.
READS_TRAINING_DATA = {"predict_labels", "plot_reliability", "labels"}
