"""Expression of genes according to the model: denoised, and without the effects of library size and batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from vaekit._core.memory_budget import check_memory
from vaekit.analysis.covariate_values import set_covariates
from vaekit.analysis.decoding import Chunk, PosteriorSampler, composition, evaluating
from vaekit.analysis.fields import check_free
from vaekit.analysis.model_source import check_in_memory, get_count_registry, prepare_query, provenance, resolve_model
from vaekit.batch import Batch
from vaekit.data.cells.genes import rename_versions
from vaekit.data.cells.query import QueryData
from vaekit.diagnostics.keyed_noise import hash_names, observation_keys
from vaekit.exceptions import DataError, did_you_mean
from vaekit.models import VAE

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


def normalized_expression(
    adata: AnnData,
    model: VAE | str | Path,
    *,
    library_size: float | Literal["observed"] = 1e4,
    transform_batch: str | Sequence[str] | None = None,
    covariates: Mapping[str, Any] | None = None,
    genes: Sequence[str] | None = None,
    layer: str | None = None,
    batch_key: str | None = None,
    key_added: str = "vaekit_normalized",
    num_samples: int = 1,
    batch_size: int = 1024,
    progress: bool = False,
    seed: int = 0,
) -> pd.DataFrame | None:
    r"""Write the expected expression of all genes into a layer, or return that of some genes.

    .. math:: \ell\, E_{q(z | x)}[\rho_g(z, s)]

    with the library size :math:`\ell`, the composition :math:`\rho` over genes and the covariates s, which can be set
    to other values than those of the cell (counterfactuals). The latents z are always those of the observed cell.

    Parameters
    ----------
    adata : AnnData
        Cells with counts; changed in ``.layers``, ``.obsm`` and ``.uns`` only.
    model : VAE or path
        Trained model, or its checkpoint.
    library_size : float or "observed"
        Sum of a cell's expression over the model's genes. ``"observed"`` means the size factor of the cell.
    transform_batch : str or sequence of str, optional
        Batch that all cells are assumed to come from. Several batches are averaged. None means the batch of each cell.
    covariates : mapping, optional
        Values that all cells are assumed to have, by the name of the covariate in the training data, such as
        ``{"donor": "A", "percent_mito": 3.0}``. Several values of one are averaged. Other covariates keep the values of
        each cell.
    genes : sequence of str, optional
        Genes to return. None means that all genes are written into a layer.
    layer, batch_key, batch_size, progress
        As in :func:`vaekit.analysis.embed`.
    key_added : str
        Key in ``.layers``, ``.obsm`` and ``.uns``.
    num_samples, seed : int
        Samples of the latents per cell, and their seed.

    Returns
    -------
    pandas.DataFrame or None
        Expression, float32 ``[cells, genes]``; None without ``genes``.

    Without ``genes``, sets the following fields:

    ``adata.layers[key_added]``
        Float32 ``[cells, genes]``; NaN for genes that the model does not know.
    ``adata.obsm[key_added]``
        Float32 ``[cells, genes of the model]``; only if ``adata.var`` lacks some of these genes, for example because
        the counts are in ``.raw``.
    ``adata.uns[key_added]``
        Provenance; ``"genes"`` are the names of the columns in ``.obsm``.

    Warns
    -----
    UserWarning
        If ``adata.var`` lacks genes of the model that the counts have.

    Raises
    ------
    CheckpointError
        If the model was not trained on gene expression, or its likelihood does not have a composition.
    DataError
        If the cells do not fit the model, the result does not fit into memory, a gene, batch or covariate is unknown,
        or ``key_added`` is taken.

    Examples
    --------
    >>> import vaekit
    >>> vaekit.analysis.normalized_expression(adata, model)  # writes a layer
    >>> adata.layers["vaekit_normalized"].shape
    (300, 60)
    >>> vaekit.analysis.normalized_expression(adata, model, genes=["gene4", "gene7"]).shape  # returns a table
    (300, 2)
    >>> one = vaekit.analysis.normalized_expression(adata, model, covariates={"batch": "batch1"}, genes=["gene4"])
    >>> one.shape  # of all cells, as if they were from batch1
    (300, 1)
    """
    check_in_memory(adata, "denoise")
    model, checkpoint = resolve_model(model)
    writer = NormalizedExpressionWriter(
        model, library_size, transform_batch, num_samples, batch_size, seed, covariates=covariates
    )
    if genes is not None:
        import pandas as pd

        names = writer.check_genes([genes] if isinstance(genes, str) else genes)
        _check_memory(adata.n_obs, len(names))
        values = np.empty((adata.n_obs, len(names)), dtype=np.float32)
        writer.write({"table": values}, prepare_query(model, adata, layer, batch_key), names, progress)
        return pd.DataFrame(values, index=adata.obs_names, columns=names)
    check_free(adata, key_added, {"layers": [key_added], "obsm": [key_added]}, key_added)
    _check_memory(adata.n_obs, adata.n_vars)
    query = prepare_query(model, adata, layer, batch_key)
    shapes = writer.shapes(query, key_added)
    _check_memory(adata.n_obs, sum(shape[1] for shape in shapes.values()))
    arrays = {place: np.empty(shape, dtype=np.float32) for place, shape in shapes.items()}
    writer.write(arrays, query, progress=progress)
    for place in ("layers", "obsm"):
        getattr(adata, place).pop(key_added, None)
        getattr(adata, place).update({key_added: arrays[place]} if place in arrays else {})
    adata.uns[key_added] = writer.provenance(query, checkpoint)
    return None


class NormalizedExpressionWriter:
    """Writer of :func:`normalized_expression` into arrays in memory or on disk, a chunk of cells at a time.

    Parameters
    ----------
    model : VAE
        Trained model.
    library_size, transform_batch, num_samples, batch_size, seed, covariates
        As in :func:`normalized_expression`, with the same errors.

    Examples
    --------
    >>> import numpy as np, vaekit
    >>> writer = vaekit.analysis.NormalizedExpressionWriter(model)
    >>> expression = np.empty(adata.shape, dtype=np.float32)  # or a data set of an open file
    >>> writer.write({"genes": expression}, vaekit.analysis.prepare_query(model, adata))
    >>> expression.sum(1)[:2].round()  # counts per 10,000
    array([10000., 10000.], dtype=float32)
    """

    def __init__(
        self,
        model: VAE,
        library_size: float | Literal["observed"] = 1e4,
        transform_batch: str | Sequence[str] | None = None,
        num_samples: int = 1,
        batch_size: int = 1024,
        seed: int = 0,
        covariates: Mapping[str, Any] | None = None,
    ) -> None:
        if library_size != "observed" and (isinstance(library_size, str) or not 0 < library_size < np.inf):
            raise DataError(f"library_size={library_size!r} must be a positive number or 'observed'.")
        self.sampler = PosteriorSampler(model, num_samples, batch_size, seed)
        self.library_size = library_size
        registry = get_count_registry(model)
        self.genes = list(registry["feature_names"])
        self.covariates = set_covariates(model, covariates, transform_batch)

    def check_genes(self, genes: Sequence[str]) -> list[str]:
        """Return the names of the genes; raise an error for an empty list or an unknown gene."""
        names = [str(gene) for gene in genes]
        if not names:
            raise DataError(f"genes={list(genes)} must name a gene. {did_you_mean('', self.genes)}")
        if unknown := [name for name in names if name not in set(self.genes)]:
            raise DataError(f"genes={unknown[:5]} not found in the model. {did_you_mean(unknown[0], self.genes)}")
        return names

    def shapes(self, query: QueryData, key: str) -> dict[str, tuple[int, int]]:
        """Return the shapes of the arrays that hold all genes, by attribute of an AnnData.

        The array in ``layers`` has the columns of ``.var``. If ``.var`` lacks genes of the model that the counts have,
        the array in ``obsm`` has all genes of the model.
        """
        index = self._var_index(query)
        in_var = {self.genes[gene] for gene in index[index >= 0]}
        others = [name for name in self.genes if name not in in_var | set(query.missing_genes)]
        num_cells, shapes = len(query.dataset), {}
        if in_var or not others:
            shapes["layers"] = (num_cells, query.adata.n_vars)
        if others:
            shapes["obsm"] = (num_cells, len(self.genes))
            warnings.warn(
                f"{len(others)} of the model's {len(self.genes)} genes, such as {others[0]!r}, are not in .var of "
                f"{query.source}, so a layer cannot hold them. obsm[{key!r}] holds all genes; their names are in "
                f"uns[{key!r}]['genes'].",
                UserWarning,
                stacklevel=3,
            )
        return shapes

    def write(
        self,
        arrays: Mapping[str, Any],
        query: QueryData,
        genes: Sequence[str] | None = None,
        progress: bool = False,
        devices: int | None = None,
    ) -> None:
        """Write the expression of genes into float32 arrays or data sets on disk, by attribute of an AnnData.

        The array at ``"layers"`` has the columns of ``.var``; genes without a value are NaN. Other arrays have one
        column per gene in ``genes``. None means all genes of the model. With ``devices``, only the first
        process writes (:func:`vaekit.analysis.device_prediction.predict_on_devices`).
        """
        import pandas as pd

        model, cells = self.sampler.model, torch.arange(len(query.dataset))
        columns = pd.Index(self.genes).get_indexer(self.genes if genes is None else self.check_genes(genes))
        targets = {place: self._var_index(query) if place == "layers" else columns for place in arrays}

        def store(start: int, values: np.ndarray) -> None:
            for place, index in targets.items():
                part = values[:, index]
                part[:, index < 0] = np.nan
                arrays[place][start : start + len(values)] = part

        with evaluating(model, self.sampler.seed):
            if devices is not None:
                self._write_from_devices(query, store, devices)
                return
            for chunk in self.sampler.chunks(query.dataset, cells, query.obs_names, "normalizing", progress):
                store(int(chunk.cells[0]), self._expression(chunk))

    def _write_from_devices(self, query: QueryData, store: Callable[[int, np.ndarray], None], devices: int) -> None:
        from vaekit.analysis.device_prediction import predict_on_devices

        hashes = hash_names(query.obs_names)

        def normalize(batch: Batch, start: int) -> np.ndarray:
            keys = observation_keys(batch, self.sampler.seed, hashes[start : start + len(batch.x)])
            return self._expression(Chunk(torch.arange(start, start + len(batch.x)), batch, keys))

        size = self.sampler.chunk_size
        predict_on_devices(self.sampler.model, query.dataset, normalize, store, devices, size, "normalizing")

    def _expression(self, chunk: Chunk) -> np.ndarray:
        """Return the expression of all genes of the model, float32 ``[batch, genes]``."""
        size = chunk.batch.size_factor if self.library_size == "observed" else self.library_size
        assert size is not None  # a count likelihood has size factors
        return (self._composition(chunk) * size).cpu().numpy()

    def _composition(self, chunk: Chunk) -> Tensor:
        """Return the posterior mean of the composition, averaged over values of covariates, ``[batch, genes]``."""
        model, latents = self.sampler.model, self.sampler.sample(chunk)
        batches = self.covariates.batches(chunk.batch)
        return torch.stack([composition(model, latents, batch).mean(0) for batch in batches]).mean(0)

    def _var_index(self, query: QueryData) -> np.ndarray:
        """Return the index in the model of each gene in ``.var``; -1 for genes that are unknown or repeated."""
        import pandas as pd

        table, key = query.adata.var, get_count_registry(self.sampler.model)["gene_name_key"]
        genes = (table[key] if key in table.columns else table.index).astype(str)
        names = pd.Index(rename_versions(list(genes), self.genes, query.source))
        return np.where(names.duplicated(keep=False), -1, pd.Index(self.genes).get_indexer(names))

    def provenance(self, query: QueryData, checkpoint: str) -> dict[str, Any]:
        """Return the provenance of the result, as plain data for ``adata.uns``."""
        return {
            **provenance(self.sampler.model, query.missing_genes, checkpoint),
            "genes": np.array(self.genes, dtype=str),
            "library_size": str(self.library_size),
            "transform_batch": np.array(self.covariates.batch_names, dtype=str),
            "covariates": np.array(self.covariates.describe(), dtype=str),
        }


def _check_memory(num_cells: int, num_genes: int) -> None:
    size, remedy = 4 * num_cells * num_genes, "Request fewer genes (genes=[...]), or pass fewer cells."
    check_memory(size, f"normalized_expression: {num_cells} cells x {num_genes} genes", remedy)
