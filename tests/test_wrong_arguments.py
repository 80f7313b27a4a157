"""Arguments of a wrong type, or in the wrong order: each public function names the argument, and says what to pass."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl

import vaekit
from vaekit import analysis
from vaekit.data import GeneExpressionData, simulate_counts
from vaekit.exceptions import VaekitError
from vaekit.likelihoods import NegativeBinomial


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Return one object of each kind that may be passed by mistake."""
    directory = tmp_path_factory.mktemp("things")
    cells = simulate_counts(cells=120, genes=30, clusters=2, batches=2, seed=1)
    model = vaekit.fit(cells, labels="cluster", batch_key="batch", max_steps=5, progress=False, accelerator="cpu")
    run = directory / "run"
    run.mkdir()
    vaekit.save(model, run / "last.ckpt")
    cells.obs["another"] = "new"  # batch of map_query
    cells.write_h5ad(directory / "cells.h5ad")
    normalized = cells.copy()
    normalized.X = np.log1p(normalized.X.toarray() / 3.7)
    return SimpleNamespace(
        cells=cells,
        model=model,
        checkpoint=str(run / "last.ckpt"),
        run=str(run),
        file=str(directory / "cells.h5ad"),
        missing=str(directory / "cell.h5ad"),
        data=GeneExpressionData(cells),
        untrained=vaekit.MixedVAE(30, "nb", 2),
        cls=vaekit.GaussianVAE,
        normalized=normalized,
        frame=cells.to_df(),
        array=cells.X,
        none=None,
        number=5,
    )


AS_CELLS = {  # kind of thing that is passed as cells, and a part of the message
    "model": "has type MixedVAE.*It is a model: check the order of the arguments",
    "checkpoint": "is a checkpoint. Pass the cells here",
    "data": "It is a data module: pass its cells, data.adata",
    "frame": "has type DataFrame.*Create one: anndata.AnnData",
    "array": "has type csr_matrix.*Create one: anndata.AnnData",
    "none": "has type NoneType, but must be an AnnData",
    "number": "has type int, but must be an AnnData",
    "normalized": "must hold counts.*they look log-normalized.*Pass the counts before normalization",
}
AS_MODEL = {
    "cells": "model has type AnnData.*These are cells: check the order of the arguments",
    "file": "cells.h5ad is an HDF5 file, such as cells, but must be a checkpoint",
    "run": "is a run directory. Pass .*last.ckpt",
    "missing": "cell.h5ad not found",
    "data": "model has type GeneExpressionData, but must be a model.*Pass the result of vaekit.fit or vaekit.load",
    "cls": "model=GaussianVAE is a class. Pass a trained model",
    "none": "model has type NoneType, but must be a model",
    "number": "model has type int, but must be a model",
    "untrained": "is not trained. Train one with vaekit.fit",
}


def reference_of(model: Any) -> dict[str, Any]:
    """Return what assign_states checks of the states of a model before it reads the cells."""
    if not isinstance(model, vaekit.VAE):
        return {}
    fingerprint = (model.data_registry or {}).get("fingerprint")
    return {"reference": {}, "checkpoints": [""], "training_fingerprint": fingerprint}


def readable(model: Any) -> Any:
    """Return a model whose decoder counts as additive, so that the cells are checked next."""
    if not isinstance(model, vaekit.VAE):
        return model
    model = copy.deepcopy(model)
    model.networks.decoder.is_additive = True
    return model


OF_CELLS_AND_MODEL: dict[str, Callable[[Any, Any], Any]] = {
    "embed": analysis.embed,
    "normalized_expression": analysis.normalized_expression,
    "differential_expression": lambda cells, model: analysis.differential_expression(cells, model, "cluster"),
    "markers": analysis.markers,
    "loadings": lambda cells, model: analysis.loadings(readable(model), cells),
    "posterior_predictive_check": analysis.posterior_predictive_check,
    "code_tree": lambda cells, model: analysis.code_tree(cells, model, num_states=2),
    "map_query": lambda cells, model: analysis.map_query(cells, model, batch_key="another"),
    "states": analysis.states,
    "assign_states": lambda cells, model: analysis.assign_states(cells, model, reference_of(model)),
    "transfer_labels": lambda cells, model: analysis.transfer_labels(cells, cells, model, "cluster"),
    "plot_umap": analysis.plot_umap,
    "predict_labels": analysis.predict_labels,
    "prepare_query": lambda cells, model: analysis.prepare_query(analysis.resolve_model(model)[0], cells),
}
ONLY_IN_MEMORY = {
    "embed",
    "normalized_expression",
    "code_tree",
    "states",
    "assign_states",
    "transfer_labels",
    "predict_labels",
}


def rejects(call: Callable[[], Any], message: str) -> None:
    """Check that the call raises an error of one line and at most two sentences before its remedy."""
    with pytest.raises(VaekitError) as caught:
        call()
    text = str(caught.value)
    assert re.search(message, text), text
    assert "\n" not in text
    assert len(text) < 420


@pytest.mark.parametrize("kind", AS_CELLS)
@pytest.mark.parametrize("name", OF_CELLS_AND_MODEL)
def test_wrong_cells(name: str, kind: str, things: SimpleNamespace) -> None:
    value = things.normalized.copy() if kind == "normalized" else getattr(things, kind)
    if (name, kind) == ("loadings", "none"):  # the range of the prior
        assert len(OF_CELLS_AND_MODEL[name](value, things.model))
        return
    rejects(lambda: OF_CELLS_AND_MODEL[name](value, things.model), AS_CELLS[kind])


@pytest.mark.parametrize("name", OF_CELLS_AND_MODEL)
def test_path_of_cells(name: str, things: SimpleNamespace) -> None:
    """A path of cells works, or the message names the function that reads it."""
    call = OF_CELLS_AND_MODEL[name]
    if name in ONLY_IN_MEMORY:
        rejects(lambda: call(things.file, things.model), "is a path, but must be an AnnData.*anndata.read_h5ad")
    elif name not in ("map_query", "plot_umap"):
        assert call(things.file, things.model) is not None
        rejects(lambda: call(things.missing, things.model), "cell.h5ad does not exist. .*'cells.h5ad'")


@pytest.mark.parametrize("kind", AS_MODEL)
@pytest.mark.parametrize("name", OF_CELLS_AND_MODEL)
def test_wrong_model(name: str, kind: str, things: SimpleNamespace) -> None:
    rejects(lambda: OF_CELLS_AND_MODEL[name](things.cells.copy(), getattr(things, kind)), AS_MODEL[kind])


FIT: dict[str, str] = {**AS_CELLS, "missing": "cell.h5ad does not exist", "run": "is a directory"}


@pytest.mark.parametrize("kind", FIT)
def test_wrong_cells_of_fit(kind: str, things: SimpleNamespace) -> None:
    rejects(lambda: vaekit.fit(getattr(things, kind), max_steps=2, progress=False), FIT[kind])


OTHERS: dict[str, tuple[Callable[[SimpleNamespace], Any], str]] = {
    "fit: several AnnData": (lambda t: vaekit.fit([t.cells, t.cells]), "Join several AnnData by anndata.concat"),
    "save: swapped": (lambda t: vaekit.save("m.ckpt", t.model), "model='m.ckpt' is a path"),
    "save: cells": (lambda t: vaekit.save(t.cells, "m.ckpt"), "model has type AnnData"),
    "save: no path": (lambda t: vaekit.save(t.model, None), "path has type NoneType"),
    "load: model": (lambda t: vaekit.load(t.model), "path has type MixedVAE, but must be the path of a checkpoint"),
    "load: cells": (lambda t: vaekit.load(t.cells), "path has type AnnData"),
    "load: file of cells": (lambda t: vaekit.load(t.file), "is an HDF5 file"),
    "load: run": (lambda t: vaekit.load(t.run), "is a run directory. Pass .*last.ckpt"),
    "load: missing": (lambda t: vaekit.load(t.checkpoint.replace("last", "lst")), "Did you mean 'last.ckpt'"),
    "training data: path": (lambda t: analysis.load_training_data(t.checkpoint), "Pass the model: vaekit.load"),
    "registry: untrained": (lambda t: analysis.get_data_registry(t.untrained), "is not trained"),
    "latent_fields: cells": (lambda t: analysis.latent_fields(t.cells, t.model), "prepare_query.model, adata"),
    "label_fields: cells": (lambda t: analysis.label_fields(t.cells, t.cells, t.model, "cluster"), "prepare_query"),
    "loadings: swapped": (lambda t: analysis.loadings(t.cells, t.model), "model has type AnnData"),
    "loadings: decoder": (lambda t: analysis.loadings(t.model), "decoder MLP mixes the units.*pbmc_additive"),
    "decode: swapped": (lambda t: analysis.decode(t.cells, t.model), "model has type AnnData"),
    "decode: no embedding": (lambda t: analysis.decode(t.model, t.cells), "obsm.'X_vaekit'. not found.*embed"),
    "decode: none": (lambda t: analysis.decode(t.model, None), "latents must contain numbers"),
    "decode: untrained": (lambda t: analysis.decode(t.untrained, {"z": [[0.0]]}), "is not trained"),
    "decode: covariates": (lambda t: analysis.decode(t.model, {}, "batch0"), "covariates='batch0' must be a mapping"),
    "writer: cells": (lambda t: analysis.NormalizedExpressionWriter(t.cells), "model has type AnnData"),
    "transfer: model as query": (
        lambda t: analysis.transfer_labels(t.cells, t.model, t.cells, "cluster"),
        "query_adata has type MixedVAE.*It is a model",
    ),
    "transfer: cells as model": (
        lambda t: analysis.transfer_labels(t.model, t.cells, t.cells, "cluster"),
        "model has type AnnData",
    ),
    "preset: swapped": (lambda t: vaekit.GaussianVAE("nb", 30), "likelihood=30 must be a Likelihood"),
    "preset: cells": (lambda t: vaekit.GaussianVAE(t.cells, "nb"), "features=AnnData object must be an integer"),
    "preset: data": (lambda t: vaekit.MixedVAE(t.data, "nb"), "features=.* must be an integer"),
    "preset: no features": (lambda t: vaekit.DiscreteVAE(None, "nb"), "features=None must be an integer"),
    "preset: column": (lambda t: vaekit.GaussianVAE(30, "nb", "batch"), "covariates='batch' must be an integer"),
    "preset: likelihood": (lambda t: vaekit.GaussianVAE(30, "znb"), "Did you mean 'zinb'"),
    "preset: class": (lambda t: vaekit.GaussianVAE(30, NegativeBinomial), "Add parentheses: NegativeBinomial"),
    "preset: estimator": (lambda t: vaekit.DiscreteVAE(30, "nb", estimator="Reinmaxx"), "Did you mean 'ReinMax'"),
    "preset: objective": (lambda t: vaekit.GaussianVAE(30, "nb", objective="elbow"), "Did you mean 'ELBO'"),
    "preset: latents": (lambda t: vaekit.MixedVAE(30, "nb", latents=["z"]), "must be a dictionary of Latent objects"),
    "preset: latent": (lambda t: vaekit.MixedVAE(30, "nb", latents={"z": "Gaussian"}), "Pass Gaussian.dim=...."),
    "preset: hidden": (lambda t: vaekit.GaussianVAE(30, "nb", hidden=128), "hidden=128 must be a list"),
    "preset: categories": (lambda t: vaekit.SequentialVAE(30, "nb", categories=4), "categories=4 must be a list"),
    "model: network": (lambda t: vaekit.VAE(30, 128, {}, 128, "nb"), "encoder=128 must be a Network"),
} | {
    f"{name}: {kind}": (lambda t, function=function, kind=kind: function(getattr(t, kind)), message)
    for name, function in {
        "top_genes": analysis.top_genes,
        "plot_dotplot": analysis.plot_dotplot,
        "plot_volcano": analysis.plot_volcano,
        "plot_markers": analysis.plot_markers,
        "plot_loadings": analysis.plot_loadings,
        "plot_predictive_check": analysis.plot_predictive_check,
        "plot_reliability": analysis.plot_reliability,
    }.items()
    for kind, message in {
        "cells": "table has type AnnData",
        "frame": "table lacks the column .* vaekit.analysis",
    }.items()
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_functions(case: str, things: SimpleNamespace) -> None:
    call, message = OTHERS[case]
    rejects(lambda: call(things), message)


def train(model: vaekit.VAE, data: Any) -> None:
    flags = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    pl.Trainer(max_steps=1, **flags).fit(model, datamodule=data)


@pytest.mark.parametrize(
    ("features", "covariates", "batch_key", "message"),
    [
        (30, 0, "batch", "GaussianVAE: covariates=0, but .* 2 columns. Build the model with data.covariates"),
        (30, 2, None, "GaussianVAE: covariates=2, but .* 0 columns. Pass batch_key="),
        (29, 0, None, "GaussianVAE: features=29, but the data have 30. Build the model with data.features"),
    ],
)
def test_sizes_of_model_and_data(
    features: int, covariates: int, batch_key: str | None, message: str, things: SimpleNamespace
) -> None:
    data = GeneExpressionData(things.cells, batch_key=batch_key)
    rejects(lambda: train(vaekit.GaussianVAE(features, "nb", covariates), data), message)


def test_every_function_of_cells_and_a_model_has_a_row() -> None:
    parameters = {name: inspect.signature(getattr(analysis, name)).parameters for name in analysis.__all__}
    names = {name for name, names in parameters.items() if {"adata", "query_adata"} & set(names)}
    assert names - {"integration_scores", "plot_heatmap"} == set(OF_CELLS_AND_MODEL)  # these need another argument
