"""Embeddings that ``scrna_integration.py`` compares: PCA, Harmony, scVI and vaekit's configurations.

Each function returns one row per cell. PCA, Harmony and scVI can be stored in a directory (``--cache``), as
``DATA.METHOD.SEED.npy``. vaekit is always trained.
"""

from __future__ import annotations

import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import shipped_runs
import torch
from scipy import sparse

import vaekit
from vaekit.analysis import embed, load_training_data
from vaekit.analysis.integration import harmony, principal_components
from vaekit.diagnostics import importance_sampled_log_likelihood

if TYPE_CHECKING:
    from anndata import AnnData

NUM_SAMPLES = 1000  # importance samples per cell


class DataSet(NamedTuple):
    """Cells with labels.

    Attributes
    ----------
    path : Path
        The file.
    cells : AnnData
        Its content, with counts in X.
    label_key : str
        Column of obs with the cell type.
    batch_key : str or None
        Column of obs with the batch; None if the file does not have it.
    """

    path: Path
    cells: AnnData
    label_key: str
    batch_key: str | None

    @property
    def labels(self) -> np.ndarray:
        """Cell type of each cell."""
        return self.cells.obs[self.label_key].to_numpy(str)

    @property
    def batches(self) -> np.ndarray | None:
        """Batch of each cell."""
        return None if self.batch_key is None else self.cells.obs[self.batch_key].to_numpy(str)


class Embedding(NamedTuple):
    """An embedding of all cells.

    Attributes
    ----------
    values : ndarray, shape (cells, dimensions)
        Coordinates.
    codes : ndarray or None, shape (cells,)
        Most probable code of each cell, if the model has a discrete latent.
    log_likelihood : float or None
        Mean held-out log-likelihood, in nats per cell.
    """

    values: np.ndarray
    codes: np.ndarray | None = None
    log_likelihood: float | None = None


def peers(
    data: DataSet, seed: int, names: Sequence[str], cache: Path | None, epochs: int | None
) -> dict[str, Embedding]:
    """Return PCA and the other methods in ``names``, from the cache if they are there; Harmony needs batches."""
    found: dict[str, Embedding] = {}
    for name, compute in METHODS.items():
        if name != "PCA" and (name not in names or (name == "Harmony" and data.batch_key is None)):
            continue
        file = None if cache is None else cache / f"{data.path.stem}.{name}.{seed}.npy"
        if file is not None and file.is_file():
            values = np.load(file)
            if len(values) != data.cells.n_obs:
                raise SystemExit(
                    f"{file} has {len(values)} rows, but {data.path} has {data.cells.n_obs} cells. Remove it."
                )
        else:
            started = time.perf_counter()
            values = compute(data, seed, found, epochs)
            print(f"{data.path.stem}, {name}, seed {seed}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
            if file is not None:
                np.save(file, values)
        found[name] = Embedding(values)
    return found


def _pca(data: DataSet, seed: int, found: dict[str, Embedding], epochs: int | None) -> np.ndarray:
    return principal_components(sparse.csr_matrix(data.cells.X), seed)


def _harmony(data: DataSet, seed: int, found: dict[str, Embedding], epochs: int | None) -> np.ndarray:
    return harmony(found["PCA"].values, data.batches, seed)


def _scvi(data: DataSet, seed: int, found: dict[str, Embedding], epochs: int | None) -> np.ndarray:
    """Train scVI by its own .train() at its defaults, on all cells."""
    import scvi
    import scvi_reference

    scvi_reference.quiet()
    scvi.settings.seed = seed
    cells = data.cells.copy()
    cells.X = sparse.csr_matrix(cells.X).astype(np.float32)
    scvi.model.SCVI.setup_anndata(cells, batch_key=data.batch_key)
    model = scvi.model.SCVI(cells, gene_likelihood="nb")
    model.train(max_epochs=epochs, enable_progress_bar=False, accelerator="cpu")
    return model.get_latent_representation()


METHODS = {"PCA": _pca, "Harmony": _harmony, "scVI": _scvi}  # PCA comes first: Harmony corrects it


def ours(config: Path, data: DataSet, seed: int, flags: str = "", epochs: int | None = None) -> Embedding:
    """Train a configuration by ``vaekit fit``, embed all cells and score the test cells."""
    arguments: list[Any] = ["--data.path", str(data.path), "--data.label_key", data.label_key, *shlex.split(flags)]
    if data.batch_key is not None:
        arguments += ["--data.batch_key", data.batch_key]
    with tempfile.TemporaryDirectory() as directory:
        model = vaekit.load(shipped_runs.fit(config, Path(directory), seed, *arguments, epochs=epochs))
        test_cells = load_training_data(model).dataloader("test")
        torch.manual_seed(seed)
        log_likelihood = importance_sampled_log_likelihood(model, test_cells, NUM_SAMPLES).mean()
    cells = data.cells.copy()
    embed(cells, model)
    codes = cells.obs["vaekit_y"].to_numpy(str) if "vaekit_y" in cells.obs else None
    return Embedding(np.asarray(cells.obsm["X_vaekit"]), codes, log_likelihood)
