"""Integration scores of a trained model's latents, next to those of PCA and Harmony on the same cells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import sparse

from vaekit.analysis.model_source import get_count_registry, prepare_query, resolve_model
from vaekit.analysis.scib import check_packages, repeated_labels, scib_scores, scored_batches
from vaekit.diagnostics import posterior_summaries
from vaekit.diagnostics.usage import coordinates
from vaekit.exceptions import DataError, did_you_mean
from vaekit.models import VAE

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from torch.utils.data import DataLoader

NUM_COMPONENTS = 30  # of PCA, also the input of Harmony
MAX_CELLS = 50_000  # the silhouettes compare all pairs of cells
LATENTS = "vaekit"  # name of the model's row


class LabeledCells(NamedTuple):
    """Cells with a label, in an order that depends on their content only.

    Attributes
    ----------
    counts : csr_matrix, shape (cells, genes)
        Counts of the model's genes.
    latents : ndarray, shape (cells, dimensions)
        Coordinates in the model's latent space.
    labels : ndarray, shape (cells,)
        Index of the label.
    batches : ndarray or None, shape (cells,)
        Index of the batch; None without batches.
    rows : ndarray, shape (cells,)
        Index of each cell in the data.
    """

    counts: sparse.csr_matrix
    latents: np.ndarray
    labels: np.ndarray
    batches: np.ndarray | None
    rows: np.ndarray


def integration_scores(
    adata: AnnData | str | Path | Sequence[str | Path],
    model: VAE | str | Path,
    label_key: str,
    *,
    embeddings: Sequence[str] = (),
    layer: str | None = None,
    batch_key: str | None = None,
    batch_size: int = 1024,
    progress: bool = False,
) -> pd.DataFrame:
    """Score how well latents keep cell types apart and mix batches, next to PCA and Harmony.

    PCA has 30 components of the log-normalized counts of the model's genes, and Harmony corrects them for the batch.
    Labels are used for the scores only. Of more than 50,000 cells, evenly spaced ones are scored. Requires the extra
    ``metrics`` (scib-metrics and harmonypy).

    Parameters
    ----------
    adata : AnnData, path, or list of paths
        Cells, or their files. Cells without a label (NaN), or with a label that occurs once, are
        ignored.
    model : VAE or path
        Trained model, or its checkpoint.
    label_key : str
        Column of ``.obs`` with cell types.
    embeddings : sequence of str
        Further embeddings to compare: keys of ``.obsm``, such as ``"X_scVI"``.
    layer : str, optional
        Layer with the counts (``"raw"`` for ``.raw``). None means the layer of the training data.
    batch_key : str, optional
        Column of ``.obs`` with the batch. None means the column of the training data.
    batch_size : int
        Cells per mini-batch.
    progress : bool
        Whether to show progress bars.

    Returns
    -------
    DataFrame
        One row per embedding (``vaekit``, ``PCA``, ``Harmony``, then ``embeddings``) and one column per metric of
        :func:`vaekit.analysis.scib.scib_scores`. Without batches, or if no label occurs in two batches, there is no
        Harmony and no score of batch correction.

    Raises
    ------
    CheckpointError
        If the model was not trained on gene expression.
    DataError
        If the cells do not fit the model, a key is not found, or there are fewer than 91 scored cells or two labels.
    MissingPackageError
        If the extra ``metrics`` is not installed.

    Examples
    --------
    >>> scores = integration_scores(adata, "run/last.ckpt", "cell_type", embeddings=["X_scVI"])  # doctest: +SKIP
    >>> scores[["Bio conservation", "Batch correction", "Total"]].round(3)  # doctest: +SKIP

    Notes
    -----
    Luecken et al. (2022), Benchmarking atlas-level data integration in single-cell genomics; Korsunsky et al. (2019),
    Fast, sensitive and accurate integration of single-cell data with Harmony.
    """
    from vaekit.data.dataset import sequential_loader

    check_packages()
    model, _ = resolve_model(model)
    query = prepare_query(model, adata, layer, batch_key, label_key)
    obsm = query.adata.obsm
    for key in embeddings:
        if key not in obsm:
            raise DataError(f"embeddings: {key!r} not found in .obsm of {query.source}. {did_you_mean(key, obsm)}")
    loader = sequential_loader(query.dataset, batch_size)
    repeated_labels(np.array([label for label in query.labels if label is not None]), query.source)
    cells = read_labeled_cells(model, loader, progress)
    return score_cells(cells, {key: np.asarray(obsm[key])[cells.rows] for key in embeddings}, query.source, progress)


def read_labeled_cells(model: VAE, loader: DataLoader, progress: bool = False) -> LabeledCells:
    """Read and embed the cells with a label; of more than 50,000 cells, evenly spaced ones.

    Parameters
    ----------
    model : VAE
        Model of gene expression.
    loader : DataLoader
        Cells in the order of their data set.
    progress : bool
        Whether to show a progress bar.
    """
    from tqdm.auto import tqdm

    num_batches = len(get_count_registry(model)["batch_categories"])
    step, start = -(-len(loader.dataset) // MAX_CELLS), 0  # type: ignore[arg-type]
    counts, latents, labels, groups, rows = [], [], [], [], []
    for batch in tqdm(loader, desc="embedding labeled cells", unit="batch", disable=not progress):
        size = len(batch.x)
        kept = slice(-start % step, size, step)
        part, index = batch.rows(kept), np.arange(start, start + size)[kept]
        start += size
        if part.label is None or not len(index):
            continue
        counts.append(sparse.csr_matrix(part.x.numpy()))
        latents.append(coordinates(model, posterior_summaries(model, [part])).numpy())
        labels.append(part.label.numpy())
        groups.append(part.covariates[:, :num_batches].argmax(1).numpy() if num_batches > 1 else np.zeros(len(index)))
        rows.append(index)
    if not rows:
        return LabeledCells(sparse.csr_matrix((0, model.features)), np.empty((0, 0)), *[np.empty(0, int)] * 3)
    x, group, label = sparse.vstack(counts, format="csr"), np.concatenate(groups), np.concatenate(labels)
    order = _content_order(x, label, group)
    order = order[label[order] >= 0]
    batch_codes = group[order] if len(np.unique(group[order])) > 1 else None
    return LabeledCells(
        x[order], np.concatenate(latents)[order], label[order], batch_codes, np.concatenate(rows)[order]
    )


def score_cells(
    cells: LabeledCells, embeddings: dict[str, np.ndarray], source: str, progress: bool = False
) -> pd.DataFrame:
    """Score the latents of labeled cells, PCA, Harmony if there are batches, and further embeddings."""
    repeated_labels(cells.labels, source)
    batches = scored_batches(cells.labels, cells.batches)
    components = principal_components(cells.counts)
    baselines = {LATENTS: cells.latents, "PCA": components}
    if batches is not None:
        baselines["Harmony"] = harmony(components, batches)
    return scib_scores({**baselines, **embeddings}, components, cells.labels, batches, progress)


def principal_components(counts: sparse.csr_matrix, seed: int = 0) -> np.ndarray:
    """Return 30 principal components of the log-normalized counts, ``[cells, components]``.

    Examples
    --------
    >>> counts = sparse.csr_matrix(np.random.default_rng(0).poisson(1.0, (100, 40)))
    >>> principal_components(counts).shape
    (100, 30)
    """
    import scanpy as sc
    from anndata import AnnData

    cells = AnnData(counts.astype(np.float32))
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    sc.pp.pca(cells, n_comps=min(NUM_COMPONENTS, min(cells.shape) - 1), random_state=seed)
    return cells.obsm["X_pca"]


def harmony(components: np.ndarray, batches: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return principal components that Harmony has corrected for the batch, ``[cells, components]``."""
    import pandas as pd
    from harmonypy import run_harmony

    obs = pd.DataFrame({"batch": batches.astype(str)})
    result: Any = run_harmony(components, obs, "batch", random_state=seed, verbose=False)
    return np.asarray(result.Z_corr)


def _content_order(counts: sparse.csr_matrix, labels: np.ndarray, batches: np.ndarray) -> np.ndarray:
    """Return an order of the cells that does not depend on their order in the data.

    The initialization of k-means and the search of neighbors depend on the order of the cells. Counts times random
    whole numbers are exact in float64.
    """
    weights = np.random.default_rng(0).integers(1, 2**20, counts.shape[1]).astype(np.float64)
    return np.lexsort((counts.astype(np.float64) @ weights, batches, labels))
