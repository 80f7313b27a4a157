"""No result depends on the order of cells or genes, on batches and chunks, on threads, or on how cells are stored.

Every function of ``vaekit.analysis`` and every command that reads cells, on each form of the same cells, cell by cell
and gene by gene. ``pytest tests/analysis/test_invariance.py --table`` prints the table of functions and forms.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from models.tiny import trainer
from scipy.special import expit
from sklearn.metrics import adjusted_rand_score

import vaekit.analysis as analysis
from analysis.transformations import FILES, ORDERS, STORAGE, Form
from vaekit import MixedVAE
from vaekit.cli.main import COMMANDS, main
from vaekit.data import GeneExpressionData, simulate_counts
from vaekit.exceptions import VaekitError
from vaekit.latents import Categorical, Gaussian
from vaekit.likelihoods import NegativeBinomial
from vaekit.models import VAE, save

Tables = dict[str, pd.DataFrame]
RELATIVE, PROBABILITY = 1e-4, 2e-3


@pytest.fixture(scope="module")
def clean() -> AnnData:
    """Cells of three groups of unequal size and three batches, in an order that has nothing to do with either."""
    made = simulate_counts(
        240, 40, clusters=3, batches=3, cluster_sizes=(4, 2, 1), de_fraction=0.6, lfc_scale=2.0, programmes=1,
        library_size=300.0, seed=5,
    )  # fmt: skip
    obs = pd.DataFrame(
        {
            "group": pd.Categorical(made.obs["cluster"].astype(str)),
            "batch": made.obs["batch"].astype(str).str.removeprefix("batch").astype(object),
        },
        index=[f"cell{i}" for i in range(240)],
    )
    return AnnData(made.X, obs=obs, var=pd.DataFrame(index=made.var_names))


@pytest.fixture(scope="module")
def model(clean: AnnData) -> VAE:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        data = GeneExpressionData(clean, batch_key="batch", label_key="group", batch_size=32)
        latents = {"y": Categorical(4), "z": Gaussian(2, parent="y")}
        model = MixedVAE(
            data.features, NegativeBinomial(), data.covariates, latents=latents, hidden=(16,), learning_rate=0.01
        )
        trainer(max_epochs=40, limit_val_batches=0).fit(model, datamodule=data)
    cells = clean.copy()
    analysis.transfer_labels(cells, cells, model.eval(), "group", k=15)
    assert adjusted_rand_score(cells.obs["group"], cells.obs["group_transferred"]) > 0.5  # the latents carry signal
    return model


@pytest.fixture(scope="module")
def checkpoint(model: VAE, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.ckpt"
    save(model, path)
    return path


def _embed(form: Form, model: VAE, clean: AnnData) -> Tables:
    cells = form.cells
    analysis.embed(cells, model, layer=form.layer, batch_size=form.batch_size)
    return _latents(cells.obs, cells.obsm)


def _latents(obs: Any, obsm: Any) -> Tables:
    names = list(obs.index) if isinstance(obs, pd.DataFrame) else None
    tables = {key: pd.DataFrame(np.asarray(obsm[key]), index=names) for key in ("X_vaekit", "vaekit_y_probabilities")}
    return {**tables, "code": pd.DataFrame({"code": np.asarray(obs["vaekit_y"]).astype(float)}, index=names)}


def _latent_fields(form: Form, model: VAE, clean: AnnData) -> Tables:
    query = analysis.query_for(model, form.cells, form.layer, None)
    fields = analysis.latent_fields(query, model, batch_size=form.batch_size)
    return {key: table.set_axis(query.obs_names) for key, table in _latents(fields.obs, fields.obsm).items()}


def _query(form: Form, model: VAE, clean: AnnData) -> Tables:
    query = analysis.query_for(model, form.cells, form.layer, None, "group")
    batch = query.dataset.__getitems__(range(len(query.dataset)))
    numbers = {"x": batch.x, "size_factor": batch.size_factor, "covariates": batch.covariates}
    tables = {key: pd.DataFrame(value.numpy(), index=query.obs_names) for key, value in numbers.items()}
    return {**tables, "label": pd.DataFrame({"label": query.labels}, index=query.obs_names)}


def _differential_expression(form: Form, model: VAE, clean: AnnData) -> Tables:
    arguments = {"layer": form.layer, "batch_size": form.batch_size}
    table = analysis.differential_expression(form.cells, model, "group", "cluster1", "cluster0", **arguments)
    return {"genes": table, "order": pd.DataFrame({"gene": list(table.index)})}


def _normalized_expression(form: Form, model: VAE, clean: AnnData) -> Tables:
    arguments = {"layer": form.layer, "batch_size": form.batch_size}
    genes = list(clean.var_names)
    return {
        "own": analysis.normalized_expression(form.cells, model, genes=genes, library_size="observed", **arguments),
        "batches": analysis.normalized_expression(
            form.cells, model, genes=genes, transform_batch=["0", "2"], num_samples=3, **arguments
        ),
    }


def _normalization(form: Form, model: VAE, clean: AnnData) -> Tables:
    query = analysis.query_for(model, form.cells, form.layer, None)
    into = np.empty((len(query.dataset), clean.n_vars), dtype=np.float32)
    analysis.Normalization(model, batch_size=form.batch_size).fill(into, query, list(clean.var_names))
    return {"layer": pd.DataFrame(into, index=query.obs_names, columns=clean.var_names)}


def _predictive_check(form: Form, model: VAE, clean: AnnData) -> Tables:
    arguments = {"layer": form.layer, "batch_size": form.batch_size}
    table = analysis.posterior_predictive_check(form.cells, model, **arguments)
    columns = [name for name in form.cells.obs if name.startswith("vaekit_ppc")]
    return {"genes": table, "cells": form.cells.obs[columns].copy()}


def _markers(form: Form, model: VAE, clean: AnnData) -> Tables:
    table = analysis.markers(form.cells, model, n_genes=40, layer=form.layer, batch_size=form.batch_size)
    return {"genes": table.set_index(table["code"] + table["gene"]).drop(columns=["code", "gene"])}


def _transfer_labels(form: Form, model: VAE, clean: AnnData) -> Tables:
    """From the form to the form, and for a part of the cells from all cells, to be compared."""
    part = isinstance(form.cells, AnnData) and form.cells.n_obs < clean.n_obs
    reference = clean.copy() if part else form.cells
    arguments = {"layer": form.layer, "batch_size": form.batch_size}
    analysis.transfer_labels(reference, form.cells, model, "group", k=5, **arguments)
    obs = form.cells.obs
    return {
        "label": pd.DataFrame({"label": obs["group_transferred"].astype(str)}),
        "probability": pd.DataFrame({"proba": obs["group_transferred_uncertainty"]}),
    }


def _map_query(form: Form, model: VAE, clean: AnnData) -> Tables:
    """Storage of the new cells: all come from other batches, whose names the model does not know."""
    reference, model.reference = model.reference, {**model.reference, "batch_categories": ["a", "b", "c"]}
    try:
        mapped = analysis.map_query(form.cells, model, layer=form.layer, max_epochs=3)
    finally:
        model.reference = reference
    assert sorted(mapped.reference["batch_categories"]) == ["0", "1", "2", "a", "b", "c"]
    return _normalized_expression(Form(clean), mapped, clean)


def _plot_volcano(form: Form, model: VAE, clean: AnnData) -> Tables:
    figure = analysis.plot_volcano(_differential_expression(form, model, clean)["genes"])
    return {"names": pd.DataFrame({"gene": [text.get_text() for text in figure.axes[0].texts]})}


def _plot_predictive_check(form: Form, model: VAE, clean: AnnData) -> Tables:
    figure = analysis.plot_predictive_check(_predictive_check(form, model, clean)["genes"])
    points = [np.asarray(part.get_offsets()) for axis in figure.axes for part in axis.collections]
    return {str(i): pd.DataFrame(part[np.lexsort(part.T.round(4))]) for i, part in enumerate(points)}


ROWS: dict[str, Callable[[Form, VAE, AnnData], Tables]] = {
    "embed": _embed,
    "latent_fields": _latent_fields,
    "query_for": _query,
    "differential_expression": _differential_expression,
    "normalized_expression": _normalized_expression,
    "Normalization": _normalization,
    "posterior_predictive_check": _predictive_check,
    "markers": _markers,
    "transfer_labels": _transfer_labels,
    "map_query": _map_query,
    "plot_volcano": _plot_volcano,
    "plot_predictive_check": _plot_predictive_check,
}
WITHOUT_CELLS = {"opened", "reference_of", "training_data", "check_latent_fields"}  # they take a model, and names
# Functions whose results go into an AnnData: a message for a path, or several.
INTO_ADATA = {
    "embed", "normalized_expression", "posterior_predictive_check", "markers", "transfer_labels",
    "plot_predictive_check",
}  # fmt: skip
PER_CELL = {"embed", "latent_fields", "query_for", "normalized_expression", "Normalization", "transfer_labels"}
TRAINING = {"map_query"}


def _embed_command(checkpoint: Path, form: Form, folder: Path, output: Callable[[], str]) -> Tables:
    _run("embed", checkpoint, form.cells, "-o", folder / "out.h5ad", *_layer(form))
    cells = anndata.read_h5ad(folder / "out.h5ad")
    return _latents(cells.obs, cells.obsm)


def _denoise_command(checkpoint: Path, form: Form, folder: Path, output: Callable[[], str]) -> Tables:
    """The genes that .var has in the layer, in any case; all of them beside it where .var lacks some."""
    _run("denoise", checkpoint, form.cells, "-o", folder / "out.h5ad", *_layer(form))
    cells = anndata.read_h5ad(folder / "out.h5ad")
    table = cells.to_df("vaekit_normalized")
    if form.layer == "raw":
        genes = list(cells.uns["vaekit_normalized"]["genes"])
        whole = pd.DataFrame(cells.obsm["vaekit_normalized"], index=cells.obs_names, columns=genes)
        pd.testing.assert_frame_equal(whole[table.columns], table)
        table = whole
    return {"layer": table}


def _de_command(checkpoint: Path, form: Form, folder: Path, output: Callable[[], str]) -> Tables:
    groups = ("--groupby", "group", "--group1", "cluster1", "--group2", "cluster0")
    _run("de", checkpoint, form.cells, *groups, "-o", folder / "out.csv", *_layer(form))
    table = pd.read_csv(folder / "out.csv", index_col="gene")
    return {"genes": table, "order": pd.DataFrame({"gene": list(table.index)})}


def _evaluate_command(checkpoint: Path, form: Form, folder: Path, output: Callable[[], str]) -> Tables:
    layer = () if form.layer is None else ("--data.layer", form.layer)
    size = ("--data.batch_size", 128 if form.chunk_cells is None else form.chunk_cells)
    _run("evaluate", checkpoint, "--data.path", form.cells, "--num_samples", 20, "--json", *layer, *size)
    figures = json.loads(output().strip().splitlines()[-1])
    return {"figures": pd.DataFrame({k: [v] for k, v in figures.items() if isinstance(v, int | float)})}


def _run(*arguments: Any) -> None:
    if isinstance(arguments[2], list) or isinstance(arguments[3], list):
        raise VaekitError("a command takes one file")
    assert main([str(argument) for argument in arguments]) == 0


def _layer(form: Form) -> tuple[str, ...]:
    return () if form.layer is None else ("--layer", form.layer)


COMMAND_ROWS = {
    "embed": _embed_command,
    "denoise": _denoise_command,
    "de": _de_command,
    "evaluate": _evaluate_command,
}
# They read the training data of a configuration, or none.
OTHER_COMMANDS = {
    "fit", "validate", "test", "predict", "export", "gradients", "sample", "traverse", "compare"
}  # fmt: skip


def test_every_function_and_command_has_a_row() -> None:
    assert set(ROWS) | WITHOUT_CELLS == set(analysis.__all__)
    assert set(COMMAND_ROWS) | OTHER_COMMANDS == set(COMMANDS)


def deviation(found: Tables, expected: Tables, part: bool = False) -> float:
    """Return the largest deviation as a multiple of its tolerance; raise where names or words differ."""
    assert found.keys() == expected.keys()
    worst = 0.0
    for key, table in expected.items():
        one = found[key]
        assert part or set(one.index) == set(table.index), key
        assert set(one.columns) == set(table.columns), key
        assert one.index.is_unique
        table = table.loc[one.index]
        for column in table.columns:
            x, y = one[column], table[column]
            if not pd.api.types.is_numeric_dtype(y.dtype) or y.dtype == bool:
                assert (x.astype(object) == y.astype(object)).all(), (key, column)
                continue
            x, y = x.to_numpy(float), y.to_numpy(float)
            if column == "bayes_factor":  # its probability is compared
                x, y = expit(x), expit(y)
            probability = column == "bayes_factor" or "proba" in f"{key} {column}"
            tolerance = PROBABILITY if probability else RELATIVE * (np.abs(y) + 1e-2 * np.nanmean(np.abs(y)) + 1e-12)
            assert (np.isnan(x) == np.isnan(y)).all(), (key, column)
            worst = max(worst, float(np.nanmax(np.abs(x - y) / tolerance, initial=0)))
    return worst


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Form], None]]:
    """Return a function that sets the numbers of threads and of cells at a time."""

    def set_limits(form: Form) -> None:
        torch.set_num_threads(form.threads)
        if form.chunk_cells is not None:
            monkeypatch.setattr("vaekit.analysis.decoding.DECODED", form.chunk_cells * 40)
            monkeypatch.setattr("vaekit.analysis.stored_cells.CHUNK_CELLS", form.chunk_cells)
            monkeypatch.setattr("vaekit.data.stored.CHUNK_CELLS", form.chunk_cells)

    yield set_limits
    torch.set_num_threads(1)


def _into_what_cannot_be_written(name: str, cells: Any) -> bool:
    if isinstance(cells, AnnData):
        part = cells.isbacked and cells.is_view
        return part and name in {*INTO_ADATA, "differential_expression", "plot_volcano"}
    return name in INTO_ADATA


FORMS = {**ORDERS, **STORAGE, **FILES}
CASES = [
    (name, form)
    for name in ROWS
    for form in FORMS
    if not (form == "subset of the cells" and name not in PER_CELL)
    and not (name in TRAINING and (form in ORDERS or "permuted" in form))
]
CLEAN: dict[str, Tables] = {}


@pytest.mark.parametrize(("name", "form"), CASES, ids=lambda value: value)
@pytest.mark.filterwarnings("ignore")
def test_functions(name, form, clean, model, limits, tmp_path, record_property):
    function = ROWS[name]
    if name not in CLEAN:
        CLEAN[name] = function(Form(clean.copy()), model, clean)
    record_property("table", [name, form, "failed", None])
    changed = FORMS[form](clean, tmp_path)
    limits(changed)
    if _into_what_cannot_be_written(name, changed.cells):
        with pytest.raises(VaekitError, match=r"the results go into an AnnData|to_memory\(\)"):
            function(changed, model, clean)
        record_property("table", [name, form, "message", None])
        return
    worst = deviation(function(changed, model, clean), CLEAN[name], form == "subset of the cells")
    record_property("table", [name, form, "ok" if worst <= 1 else "failed", worst])
    assert worst <= 1


ON_DISK = {name: change for name, change in FORMS.items() if name.startswith(("h5ad", "zarr"))}


@pytest.mark.parametrize("form", ON_DISK)
@pytest.mark.parametrize("name", COMMAND_ROWS)
@pytest.mark.filterwarnings("ignore")
def test_commands(name, form, clean, checkpoint, limits, tmp_path, record_property, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    row, output = f"vaekit {name}", lambda: capsys.readouterr().out
    if row not in CLEAN:
        (tmp_path / "clean").mkdir()
        plain = FILES["h5ad"](clean, tmp_path / "clean")
        CLEAN[row] = COMMAND_ROWS[name](checkpoint, plain, tmp_path / "clean", output)
    record_property("table", [row, form, "failed", None])
    changed = ON_DISK[form](clean, tmp_path)
    limits(changed)
    worst = deviation(COMMAND_ROWS[name](checkpoint, changed, tmp_path, output), CLEAN[row])
    record_property("table", [row, form, "ok" if worst <= 1 else "failed", worst])
    assert worst <= 1


@pytest.mark.parametrize("name", [name for name in ROWS if name != "query_for"])
@pytest.mark.filterwarnings("ignore")
def test_counts_of_0_and_1_as_bool(name, clean, model, record_property):
    tables = []
    for kind in (np.float32, bool):
        cells = clean.copy()
        cells.X = (clean.X > 0).astype(kind)
        tables.append(ROWS[name](Form(cells), model, cells))
    worst = deviation(tables[1], tables[0])
    record_property("table", [name, "bool", "ok" if worst <= 1 else "failed", worst])
    assert worst <= 1


def test_the_comparison_sees_what_differs(clean, model):
    """What is compared is not empty: other counts of a single gene are seen."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, function in ROWS.items():
            plain = function(Form(clean.copy()), model, clean)
            cells = clean.copy()
            cells.X[:, 3] = cells.X[:, 3] * 3
            try:
                worst = deviation(function(Form(cells), model, clean), plain)
            except AssertionError:
                continue
            assert worst > 1, name
