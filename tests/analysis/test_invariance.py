"""Results do not depend on the order of cells or genes, on mini-batches and chunks, on threads, or on the storage.

Every function of ``vaekit.analysis`` and every command that reads cells runs on each form of the same cells. Results
are compared per cell and per gene. ``pytest tests/analysis/test_invariance.py --table`` prints the table of functions
and forms.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from models.tiny import trainer
from scipy.special import expit
from sklearn.metrics import adjusted_rand_score

import vaekit.analysis as analysis
from analysis.command_results import COMMAND_ROWS, ONE_FILE, OTHER_COMMANDS, TRAINING_COMMANDS
from analysis.results import (
    INTO_ADATA,
    INTO_ADATA_ONLY,
    LABELED,
    LABELED_CELLS,
    LABELED_CHECKPOINT,
    PER_CELL,
    READS_TRAINING_DATA,
    ROWS,
    TRAINING,
    WITHOUT_CELLS,
    Tables,
)
from analysis.transformations import FILES, ORDERS, STORAGE, Form
from vaekit import MixedVAE
from vaekit.cli.main import COMMANDS
from vaekit.data import GeneExpressionData, simulate_counts
from vaekit.exceptions import VaekitError
from vaekit.latents import Categorical, Gaussian
from vaekit.likelihoods import NegativeBinomial
from vaekit.models import VAE, save

RELATIVE, PROBABILITY = 1e-4, 2e-3


@pytest.fixture(scope="module")
def clean() -> AnnData:
    """Return cells of three groups of unequal size and three batches, in random order."""
    simulated = simulate_counts(
        240, 40, clusters=3, batches=3, cluster_sizes=(4, 2, 1), de_fraction=0.6, lfc_scale=2.0, programs=1,
        library_size=300.0, seed=5,
    )  # fmt: skip
    obs = pd.DataFrame(
        {
            "group": pd.Categorical(simulated.obs["cluster"].astype(str)),
            "batch": simulated.obs["batch"].astype(str).str.removeprefix("batch").astype(object),
        },
        index=[f"cell{i}" for i in range(240)],
    )
    return AnnData(simulated.X, obs=obs, var=pd.DataFrame(index=simulated.var_names))


@pytest.fixture(scope="module")
def model(clean: AnnData) -> VAE:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        data = GeneExpressionData(clean, batch_key="batch", label_key="group", batch_size=32)
        latents = {"y": Categorical(4), "z": Gaussian(2, parents=["y"])}
        model = MixedVAE(
            data.features, NegativeBinomial(), data.covariates, latents=latents, hidden=(16,), learning_rate=0.01
        )
        trainer(max_epochs=40, limit_val_batches=0).fit(model, datamodule=data)
    cells = clean.copy()
    analysis.transfer_labels(cells, cells, model.eval(), "group", n_neighbors=15)
    assert adjusted_rand_score(cells.obs["group"], cells.obs["group_transferred"]) > 0.5  # the latents carry signal
    return model


@pytest.fixture(scope="module", autouse=True)
def labeled(clean: AnnData) -> dict[str, Any]:
    """Return a model that learned the labels of half of the cells, and these cells."""
    cells = clean.copy()
    cells.obs["known"] = cells.obs["group"].astype(object).where(np.arange(cells.n_obs) % 2 == 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        data = GeneExpressionData(cells, batch_key="batch", observed_key="known", batch_size=32)
        names = data.observed_categories
        model = MixedVAE(data.features, "nb", data.covariates, labels=names, hidden=(16,), learning_rate=0.01)
        trainer(max_epochs=20, limit_val_batches=0).fit(model, datamodule=data)
    LABELED.update(model=model.eval(), cells=cells)
    return LABELED


@pytest.fixture(scope="module")
def checkpoint(model: VAE, labeled: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.ckpt"
    save(model, path)
    save(labeled["model"], path.with_name(LABELED_CHECKPOINT))
    labeled["cells"].write_h5ad(path.with_name(LABELED_CELLS))
    return path


def test_every_function_and_command_has_a_row() -> None:
    assert set(ROWS) | WITHOUT_CELLS == set(analysis.__all__)
    assert set(COMMAND_ROWS) | OTHER_COMMANDS == set(COMMANDS)


def deviation(result: Tables, expected: Tables, part: bool = False) -> float:
    """Return the largest deviation as a multiple of its tolerance; raise an error if names or text differ."""
    assert result.keys() == expected.keys()
    worst = 0.0
    for key, table in expected.items():
        other = result[key]
        if part and key == "genes":
            continue
        assert part or set(other.index) == set(table.index), key
        assert set(other.columns) == set(table.columns), key
        assert other.index.is_unique
        table = table.loc[other.index]
        for column in table.columns:
            x, y = other[column], table[column]
            if not pd.api.types.is_numeric_dtype(y.dtype) or y.dtype == bool:
                assert (x.astype(object) == y.astype(object)).all(), (key, column)
                continue
            x, y = x.to_numpy(float), y.to_numpy(float)
            if column == "bayes_factor":  # compare its probability
                x, y = expit(x), expit(y)
            probability = column == "bayes_factor" or "proba" in f"{key} {column}"
            tolerance = PROBABILITY if probability else RELATIVE * (np.abs(y) + 1e-2 * np.nanmean(np.abs(y)) + 1e-12)
            assert (np.isnan(x) == np.isnan(y)).all(), (key, column)
            worst = max(worst, float(np.nanmax(np.abs(x - y) / tolerance, initial=0)))
    return worst


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Form], None]]:
    """Return a function that sets the numbers of threads and of cells per chunk."""

    def set_limits(form: Form) -> None:
        torch.set_num_threads(form.threads)
        if form.chunk_cells is not None:
            monkeypatch.setattr("vaekit._core.memory_budget.DECODED_VALUES", form.chunk_cells * 40)
            monkeypatch.setattr("vaekit._core.memory_budget.CHUNK_CELLS", form.chunk_cells)

    yield set_limits
    torch.set_num_threads(1)


def _is_read_only(name: str, cells: Any) -> bool:
    if isinstance(cells, AnnData):
        part = cells.isbacked and cells.is_view
        return part and name in INTO_ADATA | INTO_ADATA_ONLY
    return name in INTO_ADATA


FORMS = {**ORDERS, **STORAGE, **FILES}
CASES = [
    (name, form)
    for name in ROWS
    for form in FORMS
    if not (form == "subset of the cells" and name not in PER_CELL)
    and not (name in TRAINING and (form in ORDERS or "permuted" in form))
    and not (name in READS_TRAINING_DATA and "chunks" in form)
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
    if _is_read_only(name, changed.cells):
        with pytest.raises(VaekitError, match=r"it receives the results|to_memory\(\)"):
            function(changed, model, clean)
        record_property("table", [name, form, "message", None])
        return
    tables = function(changed, model, clean)
    expected = {key: CLEAN[name][key] for key in tables}  # a file gets no columns of its cells
    worst = deviation(tables, expected, form == "subset of the cells")
    record_property("table", [name, form, "ok" if worst <= 1 else "failed", worst])
    assert worst <= 1


ON_DISK = [name for name in FORMS if name.startswith(("h5ad", "zarr", "two files", "loom", "h5mu"))]
COMMAND_CASES = [
    (name, form)
    for name in COMMAND_ROWS
    for form in ON_DISK
    if not (form == "two files" and name in ONE_FILE)
    and not (name in TRAINING_COMMANDS and (form in ORDERS or "permuted" in form))
    and not (name in READS_TRAINING_DATA and "chunks" in form)
]


@pytest.mark.parametrize(("name", "form"), COMMAND_CASES, ids=lambda value: value)
@pytest.mark.filterwarnings("ignore")
def test_commands(name, form, clean, checkpoint, limits, tmp_path, record_property, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vaekit.plotting.embedding_figures.umap_coordinates", lambda points, seed=0: points[:, :2])
    row, output = f"vaekit {name}", lambda: capsys.readouterr().out
    if row not in CLEAN:
        (tmp_path / "clean").mkdir()
        plain = FILES["h5ad"](clean, tmp_path / "clean")
        CLEAN[row] = COMMAND_ROWS[name](checkpoint, plain, tmp_path / "clean", output)
    record_property("table", [row, form, "failed", None])
    changed = FORMS[form](clean, tmp_path)
    limits(changed)
    worst = deviation(COMMAND_ROWS[name](checkpoint, changed, tmp_path, output), CLEAN[row])
    record_property("table", [row, form, "ok" if worst <= 1 else "failed", worst])
    assert worst <= 1


@pytest.mark.parametrize("name", [name for name in ROWS if name != "prepare_query"])
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


def test_the_comparison_detects_differences(clean, model):
    """The comparison is not vacuous: it detects other counts of a gene, for labels of five.

    A figure of the training cells alone does not depend on the cells.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, function in ROWS.items():
            if name == "plot_reliability":
                continue
            plain = function(Form(clean.copy()), model, clean)
            cells = clean.copy()
            genes = slice(0, 5) if name == "transfer_labels" else slice(3, 4)
            cells.X[:, genes] = cells.X[:, genes] * 3
            try:
                worst = deviation(function(Form(cells), model, clean), plain)
            except AssertionError:
                continue
            assert worst > 1, name
