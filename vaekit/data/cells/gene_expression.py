"""Single-cell gene expression: UMI counts with optional batches and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vaekit.batch import DataStatistics
from vaekit.data.cells.backed_counts import BackedCounts, matrix_of_file
from vaekit.data.cells.columns import read_column
from vaekit.data.cells.covariates import REFERENCE_KEYS, CovariateKeys, Covariates, check_keys, read_covariates
from vaekit.data.cells.genes import HVG_CELLS, align_genes, highly_variable_genes
from vaekit.data.cells.matrices import matrix_of_adata
from vaekit.data.cells.mode import MODES, Mode, choose_mode
from vaekit.data.cells.read_counts import read_counts, warn_empty
from vaekit.data.cells.size_factors import read_size_factors, training_moments
from vaekit.data.cells.sources import describe_paths, local_paths, open_adata, pbmc68k
from vaekit.data.cells.statistics import Counts, CountsInMemory, count_statistics, fingerprint_counts
from vaekit.data.cells.streamed import StreamedDataset
from vaekit.data.data_module import DataModule, LoadedData, check_fingerprint, restored_split
from vaekit.data.dataset import BatchDataset, CountDataset
from vaekit.data.splits import split_rows
from vaekit.exceptions import DataError, did_you_mean

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True)
class LoadedCells(LoadedData):
    """:class:`LoadedData` with the names of cells and genes, and what is known of the cells."""

    obs_names: list[str]
    feature_names: list[str]
    known: Covariates
    size_factor_scale: float | None
    statistics: DataStatistics
    why: str  # the counts are in memory, or in their files
    matrix: str  # path of the counts, as "/layers/counts"


class GeneExpressionData(DataModule):
    """UMI counts of single cells, from memory, .h5ad files or zarr stores.

    Without ``adata`` and ``path`` it is scanpy's packaged ``pbmc68k_reduced`` (700 blood cells, 765 genes)
    with its exact counts and the labels 'bulk_labels'. Data are read when first needed, checked, and never
    changed.

    Parameters
    ----------
    adata
        An AnnData in memory.
    path
        An .h5ad file or a zarr store instead, or a list of them with the same genes.
    layer
        Layer that holds the counts; None for ``.X``, "raw" for ``.raw.X`` if no layer has this name. A path in the form
        of an .h5ad file means one matrix only: "/X", "/raw/X", "/layers/NAME".
    batch_key
        Column of ``.obs`` with the batch of each cell; it conditions encoder and decoder as
        ``Batch.covariates``.
    label_key
        Column of ``.obs`` with cell types; it stratifies the split and is never used in training.
    n_top_genes
        Model only this many genes: those most variable among the *training* cells (20,000 of them, drawn at random,
        where there are more), in the file's order.
    batch_size
        Cells in a batch.
    split
        Fractions of training, validation and test cells.
    seed
        Seed of the split.
    categorical_covariate_keys, continuous_covariate_keys
        Further columns of ``.obs`` that condition encoder and decoder: categories, one-hot, and numbers, standardised
        by the training cells. ``Batch.covariates`` holds the batch first, then these.
    size_factor_key
        Column of ``.obs`` with size factors or library sizes, in any unit; None for the total counts.
    gene_name_key
        Column of ``.var`` with the names of the genes, such as their Ensembl ids; None for ``var_names``.
    mode
        'in_memory': the counts are read into memory. 'streamed': they stay in their files, in CSR form, and blocks of
        cells are read as the training needs them (:mod:`vaekit.data.cells.streamed`), some hundred MB at a time.
        'auto': streamed where reading them would take more than half of the free memory (``description`` says both).
        Split, genes and names are the same in both; the order of the training cells is not.

    Raises
    ------
    DataError
        At construction for impossible arguments, else at the first use of the data: a file that is missing or
        no .h5ad, a missing layer or column, values that are no counts, covariates that are missing or no numbers,
        size factors that are not positive, duplicate gene names, too few cells or genes.

    Examples
    --------
    >>> data = GeneExpressionData()
    >>> data.features, data.num_cells, len(data.label_categories)
    (765, 700, 10)
    >>> next(iter(data.val_dataloader())).x.shape
    torch.Size([70, 765])
    """

    kind = "counts"

    def __init__(
        self,
        adata: Any = None,
        path: str | list[str] | None = None,
        layer: str | None = None,
        batch_key: str | None = None,
        label_key: str | None = None,
        n_top_genes: int | None = None,
        batch_size: int = 128,
        split: tuple[float, float, float] = (0.8, 0.1, 0.1),
        seed: int = 0,
        categorical_covariate_keys: Sequence[str] | None = None,
        continuous_covariate_keys: Sequence[str] | None = None,
        size_factor_key: str | None = None,
        gene_name_key: str | None = None,
        mode: Mode = "auto",
    ) -> None:
        if mode not in MODES:
            raise DataError(f"mode={mode!r} not found. {did_you_mean(mode, MODES)}")
        if mode == "streamed" and path is None:
            raise DataError("mode='streamed' needs path: an AnnData in memory, or the packaged data, is resident")
        self._keys = CovariateKeys(batch_key, categorical_covariate_keys or (), continuous_covariate_keys or ())
        check_keys(self._keys)
        if adata is not None and path is not None:
            raise DataError(f"adata and path={path!r} are both given: pass one of them")
        if isinstance(adata, str | Path):
            raise DataError(f"adata={str(adata)!r} is a path: pass it as path=")
        if adata is None and path is None:
            if layer is not None:
                raise DataError(f"layer={layer!r} needs path or adata; the packaged data set has its counts recovered")
            label_key = label_key or "bulk_labels"
        # A checkpoint holds plain data: the path from anywhere, and not the AnnData.
        if path is not None:
            paths = local_paths(path)
            if not paths:
                raise DataError("path=[] names no file")
            path = paths[0] if isinstance(path, str | Path) else paths
        self._arguments.update(adata=None, path=path, label_key=label_key)
        self._given = adata if path is None else path
        self._adata: AnnData | None = None
        self.layer = layer
        self.batch_key = batch_key
        self.label_key = label_key
        self.n_top_genes = n_top_genes
        self.size_factor_key = size_factor_key
        self.gene_name_key = gene_name_key
        self.mode = mode
        super().__init__(batch_size, split, seed)

    def _open(self) -> tuple[AnnData, str, str | None]:
        """Return the AnnData, what to call it, and the layer of its counts."""
        if self._given is None:
            name = "scanpy.datasets.pbmc68k_reduced"
            self._adata = self._adata if self._adata is not None else pbmc68k()
            return self._adata, name, None
        if self._adata is None:
            self._adata, self._name = open_adata(self._given, self.layer, self.gene_name_key)
        return self._adata, self._name, self.layer

    def _load(self, state: Mapping[str, Any] | None) -> LoadedCells:
        paths = [self._given] if isinstance(self._given, str) else self._given
        counts: Counts
        where, chosen, why = "", "in_memory", ""
        if isinstance(paths, list):
            where = matrix_of_file(paths[0], self.layer)
            chosen, why = choose_mode(self.mode, paths, where)
        streamed = chosen == "streamed"
        if streamed:
            source = describe_paths(paths)
            stored = BackedCounts(paths, where, source, self.gene_name_key)
            counts, genes, obs = stored, stored.genes, stored.table.obs
        else:
            adata, source, layer = self._open()
            where = where or matrix_of_adata(adata, layer, source)
            matrix, genes = read_counts(adata, where, source, self.gene_name_key)
            counts, obs = CountsInMemory(matrix), adata.obs
        cells = [str(name) for name in obs.index]
        label = None if self.label_key is None else read_column(obs, self.label_key, "label_key", source)
        names, sample = genes, np.empty(0, dtype=np.int64)
        if state is None:
            split = split_rows(len(cells), self.split or (), self.seed, None if label is None else label.codes)
            if self.n_top_genes is not None:
                sample = _at_most(HVG_CELLS, split["train"].numpy(), self.seed)
        identity, variable = fingerprint_counts(counts, genes, cells, sample)
        check_fingerprint(identity, source, state)
        if state is not None:
            split = restored_split(state)
            names = list(state["feature_names"])
            if label is not None and set(label.categories) <= set(state["label_categories"]):
                label = label.recode(state["label_categories"])
        elif variable is not None and self.n_top_genes is not None:
            names = [genes[column] for column in highly_variable_genes(variable, self.n_top_genes, source)]

        train = split["train"].numpy()
        known = read_covariates(obs, self._keys, source, train, state)
        columns = None
        if streamed and names != genes:
            number = {name: column for column, name in enumerate(genes)}
            columns = np.array([number[name] for name in names])
        elif not streamed:
            matrix, _ = align_genes(matrix, genes, names)
            counts = CountsInMemory(matrix)
        totals, mean, mean_log = count_statistics(counts, columns, len(names), split["train"])
        empty, sizes, scale = np.flatnonzero(totals == 0), np.maximum(totals, 1), None
        if self.size_factor_key is not None:
            sizes, scale = read_size_factors(obs, self.size_factor_key, source, sizes, train)
        codes = None if label is None else torch.from_numpy(label.codes)
        size_factor = torch.from_numpy(sizes.astype(np.float32))[:, None]
        dataset: BatchDataset
        if streamed:
            dataset = StreamedDataset(stored, columns, known.values, codes, size_factor)
        else:
            dataset = CountDataset(matrix, known.values, codes, size_factor)
        if self._loaded is None:  # not again when a checkpoint's state comes after the data
            warn_empty(len(empty), len(cells), source, [cells[row] for row in empty[:3]])
        moments = training_moments(mean, mean_log, sizes[train], known.batch(train))
        return LoadedCells(
            dataset=dataset,
            train_dataset=dataset,
            split_indices=split,
            features=len(names),
            covariates=known.width,
            mean=moments.mean,
            label_categories=[] if label is None else label.categories,
            labels=np.full(len(cells), None, dtype=object) if label is None else label.names(),
            fingerprint=identity,
            source=source,
            obs_names=cells,
            feature_names=names,
            known=known,
            size_factor_scale=scale,
            statistics=moments,
            why=why,
            matrix=where,
        )

    @property
    def adata(self) -> AnnData:
        """The AnnData that the counts come from, with all its genes and tables; in memory, streamed or not."""
        return self._open()[0]

    @property
    def counts_layer(self) -> str | None:
        """Layer of ``adata`` that holds the counts; None for ``.X``."""
        return self.layer

    @property
    def obs_names(self) -> list[str]:
        """Names of the cells."""
        return self.loaded.obs_names

    @property
    def feature_names(self) -> list[str]:
        """Names of the modelled genes, in the order of ``Batch.x``."""
        return self.loaded.feature_names

    @property
    def batch_categories(self) -> list[str]:
        """Names of the batches, in the order of ``Batch.covariates``; empty without ``batch_key``."""
        return self.loaded.known.batch_categories

    @property
    def statistics(self) -> DataStatistics:
        """What a model starts from: means and size factors of the training cells."""
        return self.loaded.statistics

    @property
    def num_cells(self) -> int:
        """Number of cells."""
        return len(self.dataset)

    def _size(self) -> str:
        where = "streamed from disk" if isinstance(self.dataset, StreamedDataset) else "in memory"
        why = f" ({self.loaded.why})" if self.loaded.why else ""
        return f"{self.num_cells} cells x {self.features} genes, {where}{why}"

    def state_dict(self) -> dict[str, Any]:
        """Return split, genes, covariates and fingerprint as plain data: a reference for ``query_dataset``."""
        return {
            **super().state_dict(),
            **self.loaded.known.state(),
            "matrix": self.loaded.matrix,
            "feature_names": list(self.feature_names),
            "gene_name_key": self.gene_name_key,
            "mean": self.mean,
            "size_factor_key": self.size_factor_key,
            "size_factor_scale": self.loaded.size_factor_scale,
            "in_memory": self._arguments["path"] is None and self._given is not None,
        }

    def _state_keys(self) -> tuple[str, ...]:
        return (*super()._state_keys(), *REFERENCE_KEYS)


def _at_most(number: int, rows: np.ndarray, seed: int) -> np.ndarray:
    """Return the sorted rows, or as many of them, drawn at random."""
    if len(rows) <= number:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, number, replace=False))
