"""Results of every command that reads cells, as tables with the names of cells or genes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import pandas as pd

from analysis.results import (
    LABELED_CELLS,
    LABELED_CHECKPOINT,
    Tables,
    latent_tables,
    linear_model,
    loading_rows,
    prediction_tables,
)
from analysis.transformations import Form
from vaekit.cli.main import main
from vaekit.models import load, save


def _embed_command(checkpoint: Path, form: Form, directory: Path, output: Callable[[], str]) -> Tables:
    _run("embed", checkpoint, form.cells, "-o", directory / "out.h5ad", *_layer(form))
    cells = anndata.read_h5ad(directory / "out.h5ad")
    return latent_tables(cells.obs, cells.obsm)


def _denoise_command(checkpoint: Path, form: Form, directory: Path, output: Callable[[], str]) -> Tables:
    """Read the layer, which has the genes of .var; if .var lacks some, .obsm has all of them."""
    _run("denoise", checkpoint, form.cells, "-o", directory / "out.h5ad", *_layer(form))
    cells = anndata.read_h5ad(directory / "out.h5ad")
    table = cells.to_df("vaekit_normalized")
    if form.layer == "raw":
        genes = list(cells.uns["vaekit_normalized"]["genes"])
        all_genes = pd.DataFrame(cells.obsm["vaekit_normalized"], index=cells.obs_names, columns=genes)
        pd.testing.assert_frame_equal(all_genes[table.columns], table)
        table = all_genes
    return {"layer": table}


def _de_command(checkpoint: Path, form: Form, directory: Path, output: Callable[[], str]) -> Tables:
    groups = ("--groupby", "group", "--group1", "cluster1", "--group2", "cluster0")
    _run("de", checkpoint, form.cells, *groups, "-o", directory / "out.csv", *_layer(form))
    table = pd.read_csv(directory / "out.csv", index_col="gene")
    every = ("--groupby", "group", "--replicate_key", "batch")
    _run("de", checkpoint, form.cells, *every, "-o", directory / "every.csv", *_layer(form))
    replicates = pd.read_csv(directory / "every.csv", index_col="gene")
    return {
        "genes": table,
        "order": pd.DataFrame({"gene": list(table.index)}),
        "replicates": replicates.set_index(replicates["comparison"] + replicates.index),
    }


def _markers_command(checkpoint: Path, form: Form, directory: Path, output: Callable[[], str]) -> Tables:
    _run("markers", checkpoint, form.cells, "-o", directory / "out.csv", "--n_genes", 40, *_layer(form))
    table = pd.read_csv(directory / "out.csv")
    return {"genes": table.set_index(table["code"].astype(str) + table["gene"]).drop(columns=["code", "gene"])}


def _loadings_command(checkpoint: Path, form: Form, directory: Path, output: Callable[[], str]) -> Tables:
    linear = directory / "linear.ckpt"
    save(linear_model(load(checkpoint)), linear)
    _run("loadings", linear, form.cells, "-o", directory / "loadings.csv", "--n_genes", 40, *_layer(form))
    return loading_rows(pd.read_csv(directory / "loadings.csv"))


def _ppc_command(checkpoint: Path, form: Form, directory: Path, output: Callable[[], str]) -> Tables:
    _run("ppc", checkpoint, form.cells, "-o", directory / "out.csv", *_layer(form))
    return {"genes": pd.read_csv(directory / "out.csv", index_col="gene")}


def _transfer_command(checkpoint: Path, form: Form, directory: Path, output: Callable[[], str]) -> Tables:
    """Label the cells by a copy of them."""
    flags = ("--query", *_files(form.cells), "--label_key", "group", "--n_neighbors", 5, "-o", directory / "out.csv")
    _run("transfer", checkpoint, form.cells, *flags, *_layer(form))
    table = pd.read_csv(directory / "out.csv", index_col="cell")
    return {
        "label": table[["group_transferred"]],
        "probability": table[["group_transferred_uncertainty"]].set_axis(["proba"], axis=1),
    }


def _labels_command(checkpoint: Path, form: Form, directory: Path, output: Callable[[], str]) -> Tables:
    labeled = checkpoint.with_name(LABELED_CHECKPOINT)
    flags = ("--training_data", checkpoint.with_name(LABELED_CELLS), "--key_added", "result")
    _run("labels", labeled, form.cells, *flags, "-o", directory / "out.csv", *_layer(form))
    return prediction_tables(pd.read_csv(directory / "out.csv", index_col="cell"))


def _states_command(checkpoint: Path, form: Form, directory: Path, output: Callable[[], str]) -> Tables:
    _run("states", checkpoint, "--data", *_files(form.cells), "-o", directory / "out.csv", *_layer(form))
    table = pd.read_csv(directory / "out.csv", index_col="cell")
    return {"state": table[["vaekit_states"]].astype(str), "probability": table.filter(like="probabilities")}


def _map_command(checkpoint: Path, form: Form, directory: Path, output: Callable[[], str]) -> Tables:
    """Map all cells as new ones: the model does not know the names of their batches."""
    from vaekit.models import load, save

    model = load(checkpoint)
    assert model.data_registry is not None
    model.data_registry["batch_categories"] = ["a", "b", "c"]
    save(model, directory / "other.ckpt")
    _run("map", directory / "other.ckpt", form.cells, "--max_steps", 6, "-o", directory / "mapped.ckpt", *_layer(form))
    return _denoise_command(directory / "mapped.ckpt", form, directory, output)


def _evaluate_command(checkpoint: Path, form: Form, directory: Path, output: Callable[[], str]) -> Tables:
    layer = () if form.layer is None else ("--data.layer", form.layer)
    size = ("--data.batch_size", 128 if form.chunk_cells is None else form.chunk_cells)
    _run("evaluate", checkpoint, "--data.path", form.cells, "--num_samples", 20, "--json", *layer, *size)
    figures = json.loads(output().strip().splitlines()[-1])
    return {"figures": pd.DataFrame({k: [v] for k, v in figures.items() if isinstance(v, int | float)})}


def _run(*arguments: Any) -> None:
    assert main([str(word) for argument in arguments for word in _files(argument)]) == 0


def _files(argument: Any) -> list[Any]:
    return argument if isinstance(argument, list) else [argument]


def _layer(form: Form) -> tuple[str, ...]:
    return () if form.layer is None else ("--layer", form.layer)


COMMAND_ROWS = {
    "embed": _embed_command,
    "denoise": _denoise_command,
    "de": _de_command,
    "states": _states_command,
    "loadings": _loadings_command,
    "markers": _markers_command,
    "ppc": _ppc_command,
    "transfer": _transfer_command,
    "labels": _labels_command,
    "map": _map_command,
    "evaluate": _evaluate_command,
}
ONE_FILE, TRAINING_COMMANDS = {"evaluate"}, {"map"}
# These read the training data of a configuration, or no data.
OTHER_COMMANDS = {
    "configs", "fit", "validate", "test", "predict", "export", "report", "gradients", "sample", "traverse", "compare"
}  # fmt: skip
