"""Single-cell gene expression: UMI counts with optional batches and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from typing_extensions import override

from vaekit.batch import DataStatistics
from vaekit.data.cells.color_columns import read_color_columns, stored_colors
from vaekit.data.cells.columns import check_column_name, read_column
from vaekit.data.cells.count_source import CountSource
from vaekit.data.cells.covariates import REGISTRY_KEYS, CovariateKeys, read_covariates
from vaekit.data.cells.estimated_counts import TRAINING_REMEDY
from vaekit.data.cells.genes import HVG_CELLS, highly_variable_genes
from vaekit.data.cells.in_memory_counts import InMemoryCounts
from vaekit.data.cells.label_column import UNLABELED, read_labels, training_labels
from vaekit.data.cells.loaded_cells import LoadedCells
from vaekit.data.cells.query import warn_empty
from vaekit.data.cells.size_factors import read_size_factors, training_statistics
from vaekit.data.cells.sources import Mode, check_source_arguments, open_adata, open_counts, pbmc68k
from vaekit.data.cells.stores import absolute_paths
from vaekit.data.data_module import DataModule, restore_split
from vaekit.data.figure_columns import FigureColumns, check_color
from vaekit.data.fingerprint import check_fingerprint
from vaekit.data.loaded_data import from_loaded
from vaekit.data.splits import split_rows

if TYPE_CHECKING:
    from anndata import AnnData


class GeneExpressionData(DataModule):
    """UMI counts of single cells from memory or files.

    Without ``adata`` and ``path``, the data are scanpy's packaged ``pbmc68k_reduced`` (700 blood cells, 765 genes) with
    its exact counts and the labels 'bulk_labels'. Data are read at the first use, checked, and never changed.

    Parameters
    ----------
    adata : AnnData or None
        Cells in memory.
    path : str, list of str or None
        A file instead, or a list of files with the same genes: .h5ad, zarr, 10x .h5 or directory, .loom, .h5mu, .csv
        or .tsv, or the URL of an .h5ad file or zarr store (:func:`vaekit.data.read_cells`).
    layer : str or None
        Layer of the counts. None means ``.X``; "raw" means ``.raw.X`` if no layer has this name. A path as in an .h5ad
        file means one matrix only: "/X", "/raw/X", "/layers/NAME".
    batch_key : str or None
        Column of ``.obs`` with the batch of each cell. It conditions encoder and decoder as ``Batch.covariates``. Of
        several files, ``"vaekit_file"`` means the name of the file.
    label_key : str or None
        Column of ``.obs`` with cell types. It stratifies the split and is never used in training.
    n_top_genes : int or None
        Number of modeled genes: those with the largest variance of log(1 + counts per 10,000) over at most 20,000
        random *training* cells, in the order of the file. None means all genes.
    batch_size : int
        Cells per mini-batch.
    split : tuple of float
        Fractions of training, validation and test cells.
    seed : int
        Seed of the split.
    categorical_covariate_keys, continuous_covariate_keys : sequence of str or None
        Further columns of ``.obs`` that condition encoder and decoder: categories, one-hot, and numbers, standardized
        over the training cells. ``Batch.covariates`` holds the batch first, then these.
    size_factor_key : str or None
        Column of ``.obs`` with size factors or library sizes in any unit. None means the total counts.
    gene_name_key : str or None
        Column of ``.var`` with the names of the genes, such as Ensembl identifiers. None means ``var_names``.
    mode : str
        'in_memory' loads the counts. 'streamed' leaves counts that are stored as CSR in .h5ad or zarr, and reads blocks
        of cells during training (:mod:`vaekit.data.cells.streamed`), some hundred MB at a time. 'auto' streams them if
        loading would take more than half of the free memory (``description`` states both sizes). Both have the same
        split, genes and names, but another order of the training cells.
    round_counts : bool
        Whether to round estimated counts, such as those that SoupX or DecontX have corrected, or those of RSEM; a
        warning states the changes. It applies to later cells for the trained model, too. Normalized, scaled and
        log-transformed values are always rejected.
    genes_in : str or None
        Place of the genes: 'rows' or 'columns' of a .csv or .tsv file, or the name of a modality of an .h5mu file. None
        means that the names in the file decide.
    observed_key : str or None
        Column of ``.obs`` with the cell types that are known for some cells, of which a latent such as
        ``Categorical(observed_key=...)`` learns. Only the labels of training cells are used
        (``Batch.observed_label``). They stratify the split without ``label_key``.
    unlabeled_category : str
        Category of this column that means unknown, like an empty or missing value.

    Raises
    ------
    DataError
        At construction for impossible arguments, else at the first use: for a missing or damaged file, a missing layer
        or column, values that are not counts, invalid covariates or size factors, duplicate gene names, and too few
        cells or genes.

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
        round_counts: bool = False,
        genes_in: str | None = None,
        observed_key: str | None = None,
        unlabeled_category: str = UNLABELED,
    ) -> None:
        check_source_arguments(adata, path, layer, mode)
        self._keys = CovariateKeys(batch_key, categorical_covariate_keys or (), continuous_covariate_keys or ())
        self._keys.check()
        self._keys.check_excludes(observed_key, "observed_key")
        for argument, key in (("label_key", label_key), ("size_factor_key", size_factor_key)):
            check_column_name(key, argument)
        if adata is None and path is None:
            label_key = label_key or "bulk_labels"
        if path is not None:
            paths = absolute_paths(path)
            path = paths[0] if isinstance(path, str | Path) else paths
        # A checkpoint holds plain data: absolute paths and URLs without credentials, but not the AnnData.
        stored = str(path) if isinstance(path, str) else path and [str(part) for part in path]
        self._arguments.update(adata=None, path=stored, label_key=label_key)
        self._cells = adata if path is None else path
        self._adata: AnnData | None = None
        self._name, self._storage = "", ""
        self.layer = layer
        self.batch_key = batch_key
        self.label_key = label_key
        self.n_top_genes = n_top_genes
        self.size_factor_key = size_factor_key
        self.gene_name_key = gene_name_key
        self.mode = mode
        self.round_counts = round_counts
        self.genes_in = genes_in
        self.observed_key, self.unlabeled_category = observed_key, str(unlabeled_category)
        super().__init__(batch_size, split, seed)

    def _open(self) -> CountSource:
        """Return the source of the counts; an AnnData that was read from files is kept."""
        if self._adata is None:
            if self._cells is None:
                self._adata, self._name, self._storage = pbmc68k(), "scanpy.datasets.pbmc68k_reduced", "in memory"
            else:
                source = open_counts(self._cells, self.layer, self.gene_name_key, self.mode, genes_in=self.genes_in)
                if not source.in_memory:
                    return source.round_counts(self.round_counts, TRAINING_REMEDY)
                self._adata, self._name, self._storage = source.adata, source.name, source.storage
        source = InMemoryCounts(self._adata, self._name, self.layer, self.gene_name_key, storage=self._storage)
        return source.round_counts(self.round_counts, TRAINING_REMEDY)

    @override
    def _load(self, state: Mapping[str, Any] | None) -> LoadedCells:
        source = self._open()
        cells = [str(name) for name in source.obs.index]
        label = None
        if self.label_key is not None:
            label = read_column(source.obs, self.label_key, "label_key", source.name)
        observed = read_labels(source.obs, self.observed_key, source.name, self.unlabeled_category, state)
        classes = label or observed
        split, fingerprint, genes = self._choose_genes(source, None if classes is None else classes.codes, state)
        if state is not None and label is not None and set(label.categories) <= set(state["label_categories"]):
            label = label.recode(state["label_categories"])
        train = split["train"].numpy()
        columns = read_covariates(source.obs, self._keys, source.name, train, state)
        counts = source.select_genes(genes)
        totals, mean, mean_log1p = counts.statistics(train)
        sizes, scale = np.maximum(totals, 1), None
        if self.size_factor_key is not None:
            sizes, scale = read_size_factors(source.obs, self.size_factor_key, source.name, sizes, train)
        if self._loaded is None:  # not again if a checkpoint's state follows the data
            warn_empty(totals, source.name)
            counts.warn_rounded()
        batch = None if columns.batch is None else columns.batch._replace(codes=columns.batch.codes[train])
        statistics = training_statistics(mean, mean_log1p, sizes[train], batch)
        dataset = counts.dataset(
            covariates=columns.values,
            label=None if label is None else torch.from_numpy(label.codes),
            size_factor=torch.from_numpy(sizes.astype(np.float32))[:, None],
            observed_label=training_labels(observed, source.name, train, warn=self._loaded is None),
        )
        return LoadedCells(
            dataset=dataset,
            train_dataset=dataset,
            split_indices=split,
            features=len(genes),
            covariates=columns.num_covariates,
            mean=statistics.mean,
            label_categories=[] if label is None else label.categories,
            labels=np.full(len(cells), None, dtype=object) if label is None else label.names(),
            observed_categories={} if observed is None else {observed.key: observed.categories},
            observed_labels=None if observed is None else observed.codes,
            fingerprint=fingerprint,
            source=source.name,
            obs_names=cells,
            feature_names=genes,
            columns=columns,
            size_factor_scale=scale,
            statistics=statistics,
            colors=self._stored_colors(source),
            storage=source.storage,
            matrix=source.matrix,
        )

    def _choose_genes(
        self, source: CountSource, classes: np.ndarray | None, state: Mapping[str, Any] | None
    ) -> tuple[dict[str, torch.Tensor], str, list[str]]:
        """Return the split, the fingerprint of all counts, and the names of the modeled genes."""
        if state is not None:
            fingerprint, _ = source.fingerprint()
            check_fingerprint(fingerprint, source.name, state)
            return restore_split(state), fingerprint, list(state["feature_names"])
        split = split_rows(len(source), self.split or (), self.seed, classes)
        if self.n_top_genes is None:
            return split, source.fingerprint()[0], source.genes
        sample = split["train"].numpy()
        if len(sample) > HVG_CELLS:
            sample = np.sort(np.random.default_rng(self.seed).choice(sample, HVG_CELLS, replace=False))
        fingerprint, counts = source.fingerprint(sample)
        genes = highly_variable_genes(counts, self.n_top_genes, source.name)
        return split, fingerprint, [source.genes[index] for index in genes]

    @cached_property
    def adata(self) -> AnnData:
        """The AnnData with all genes and tables; it is in memory, whether or not the counts are streamed."""
        source = self._open()
        return source.adata if source.in_memory else open_adata(self._cells, self.layer, self.gene_name_key)[0]

    @property
    def counts_layer(self) -> str | None:
        """Layer of ``adata`` that holds the counts; None for ``.X``."""
        return self.layer

    obs_names: list[str] = from_loaded("obs_names", "Names of the cells.")
    feature_names: list[str] = from_loaded("feature_names", "Names of the modeled genes, in the order of ``Batch.x``.")
    statistics: DataStatistics = from_loaded("statistics", "Statistics of the training cells that initialize a model.")

    @property
    def batch_categories(self) -> list[str]:
        """Names of the batches, in the order of ``Batch.covariates``; empty without ``batch_key``."""
        return self.loaded.columns.batch_categories

    @property
    def num_cells(self) -> int:
        """Number of cells."""
        return len(self.dataset)

    def _stored_colors(self, source: CountSource) -> dict[str, dict[str, str]]:
        keys = (self.batch_key, self.label_key, self.observed_key, *(self._keys.categorical or ()))
        return {key: colors for key in keys if key is not None and (colors := stored_colors(source, key))}

    @override
    def figure_columns(self, color: Sequence[str] | str | None = None) -> FigureColumns:
        """Return batch and label of the cells, if there are any, and the columns of ``.obs`` and genes of ``color``."""
        import pandas as pd

        values, batch = {}, self.loaded.columns.batch
        if batch is not None:
            values[str(self.batch_key)] = pd.Categorical.from_codes(batch.codes, batch.categories)
        if self.label_column is not None:
            values[str(self.label_key)] = self.label_column
        palettes = {key: self.loaded.colors[key] for key in values if key in self.loaded.colors}
        keys = [key for key in check_color(color) if key not in values]
        if not keys:
            return FigureColumns(values, palettes, {})
        others = read_color_columns(self._open(), keys, (), self.loaded.columns.categorical, self.loaded.colors)
        return FigureColumns(values | others.values, palettes | others.palettes, others.units)

    @override
    def _size(self) -> str:
        return f"{self.num_cells} cells x {self.features} genes, {self.loaded.storage}"

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return split, genes, covariates and fingerprint as plain data: the data registry of a checkpoint."""
        return {
            **super().state_dict(),
            **self.loaded.columns.registry(),
            "colors": self.loaded.colors,
            "matrix": self.loaded.matrix,
            "feature_names": list(self.feature_names),
            "gene_name_key": self.gene_name_key,
            "mean": self.mean,
            "round_counts": self.round_counts,
            "size_factor_key": self.size_factor_key,
            "size_factor_scale": self.loaded.size_factor_scale,
            "in_memory": self._arguments["path"] is None and self._cells is not None,
        }

    @override
    def _state_keys(self) -> tuple[str, ...]:
        return (*super()._state_keys(), *REGISTRY_KEYS)
