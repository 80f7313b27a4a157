"""Single-cell gene expression: UMI counts with optional batches and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vaekit.batch import Moments
from vaekit.data.base import Resident, ResidentData, check_fingerprint, fingerprint, restored_split
from vaekit.data.columns import read_column
from vaekit.data.counts import read_counts, warn_empty
from vaekit.data.covariates import REFERENCE_KEYS, Covariates, Keys, check_keys, read_covariates
from vaekit.data.dataset import CountDataset
from vaekit.data.genes import align_genes, highly_variable_genes
from vaekit.data.size_factors import read_size_factors, total_counts, training_moments
from vaekit.data.sources import open_adata, pbmc68k
from vaekit.data.splits import split_rows
from vaekit.exceptions import DataError

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True)
class ResidentCells(Resident):
    """Cells in memory: :class:`Resident` with names and the AnnData they come from."""

    adata: AnnData
    feature_names: list[str]
    known: Covariates
    size_factor_scale: float | None
    moments: Moments


class GeneExpressionData(ResidentData):
    """UMI counts of single cells, from memory or from an .h5ad file.

    Without ``adata`` and ``path`` it is scanpy's packaged ``pbmc68k_reduced`` (700 blood cells, 765 genes)
    with its exact counts and the labels 'bulk_labels'. Data are read when first needed, checked, and never
    changed.

    Parameters
    ----------
    adata
        An AnnData in memory.
    path
        An .h5ad file instead.
    layer
        Layer that holds the counts; "raw" for ``.raw.X``, None for ``.X``.
    batch_key
        Column of ``.obs`` with the batch of each cell; it conditions encoder and decoder as
        ``Batch.covariates``.
    label_key
        Column of ``.obs`` with cell types; it stratifies the split and is never used in training.
    n_top_genes
        Model only this many genes: those most variable among the *training* cells, in the file's order.
    batch_size
        Cells in a batch.
    split
        Fractions of training, validation and test cells.
    seed
        Seed of the split.
    categorical_covariates, continuous_covariates
        Further columns of ``.obs`` that condition encoder and decoder: categories, one-hot, and numbers, standardised
        by the training cells. ``Batch.covariates`` holds the batch first, then these.
    size_factor_key
        Column of ``.obs`` with size factors or library sizes, in any unit; None for the total counts.
    gene_names
        Column of ``.var`` with the names of the genes, such as their Ensembl ids; None for ``var_names``.

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
        path: str | None = None,
        layer: str | None = None,
        batch_key: str | None = None,
        label_key: str | None = None,
        n_top_genes: int | None = None,
        batch_size: int = 128,
        split: tuple[float, float, float] = (0.8, 0.1, 0.1),
        seed: int = 0,
        categorical_covariates: Sequence[str] | None = None,
        continuous_covariates: Sequence[str] | None = None,
        size_factor_key: str | None = None,
        gene_names: str | None = None,
    ) -> None:
        self._keys = Keys(batch_key, categorical_covariates or (), continuous_covariates or ())
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
        path = None if path is None else str(Path(path).expanduser().absolute())
        self._arguments.update(adata=None, path=path, label_key=label_key)
        self._given = adata if path is None else path
        self._adata: AnnData | None = None
        self.layer = layer
        self.batch_key = batch_key
        self.label_key = label_key
        self.n_top_genes = n_top_genes
        self.size_factor_key = size_factor_key
        self.gene_names = gene_names
        super().__init__(batch_size, split, seed)

    def _open(self) -> tuple[AnnData, str, str | None]:
        """Return the AnnData, what to call it, and the layer of its counts."""
        if self._given is None:
            name = "scanpy.datasets.pbmc68k_reduced"
            self._adata = self._adata if self._adata is not None else pbmc68k()
            return self._adata, name, "counts"
        if self._adata is None:
            self._adata, self._name = open_adata(self._given)
        return self._adata, self._name, self.layer

    def _load(self, state: Mapping[str, Any] | None) -> ResidentCells:
        adata, source, layer = self._open()
        counts, genes = read_counts(adata, layer, source, self.gene_names)
        cells = [str(name) for name in adata.obs_names]
        identity = fingerprint([counts.data, counts.indices, counts.indptr], [genes, cells])
        check_fingerprint(identity, source, state)
        label = None if self.label_key is None else read_column(adata.obs, self.label_key, "label_key", source)

        if state is not None:
            split = restored_split(state)
            names = list(state["feature_names"])
            if label is not None and set(label.categories) <= set(state["label_categories"]):
                label = label.recode(state["label_categories"])
        else:
            split = split_rows(len(cells), self.split or (), self.seed, None if label is None else label.codes)
            names = genes
            if self.n_top_genes is not None:
                columns = highly_variable_genes(counts[split["train"].numpy()], self.n_top_genes, source)
                names = [genes[column] for column in columns]
        counts, _ = align_genes(counts, genes, names)

        train = split["train"].numpy()
        known = read_covariates(adata.obs, self._keys, source, train, state)
        sizes, scale = total_counts(counts), None
        if self.size_factor_key is not None:
            sizes, scale = read_size_factors(adata.obs, self.size_factor_key, source, sizes, train)
        dataset = CountDataset(
            counts,
            known.values,
            None if label is None else torch.from_numpy(label.codes),
            torch.from_numpy(sizes.astype(np.float32))[:, None],
        )
        if self._resident is None:  # not again when a checkpoint's state comes after the data
            warn_empty(dataset.num_empty, len(cells), source)
        moments = training_moments(counts[train], sizes[train], known.batch(train))
        return ResidentCells(
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
            adata=adata,
            feature_names=names,
            known=known,
            size_factor_scale=scale,
            moments=moments,
        )

    @property
    def adata(self) -> AnnData:
        """The AnnData that the counts come from, with all its genes and tables."""
        return self.resident.adata

    @property
    def counts_layer(self) -> str | None:
        """Layer of ``adata`` that holds the counts; None for ``.X``."""
        return self._open()[2]

    @property
    def obs_names(self) -> list[str]:
        """Names of the cells."""
        return [str(name) for name in self.adata.obs_names]

    @property
    def feature_names(self) -> list[str]:
        """Names of the modelled genes, in the order of ``Batch.x``."""
        return self.resident.feature_names

    @property
    def batch_categories(self) -> list[str]:
        """Names of the batches, in the order of ``Batch.covariates``; empty without ``batch_key``."""
        return self.resident.known.batch_categories

    @property
    def moments(self) -> Moments:
        """What a model starts from: means and size factors of the training cells."""
        return self.resident.moments

    @property
    def num_cells(self) -> int:
        """Number of cells."""
        return len(self.dataset)

    def _size(self) -> str:
        return f"{self.num_cells} cells x {self.features} genes"

    def state_dict(self) -> dict[str, Any]:
        """Return split, genes, covariates and fingerprint as plain data: a reference for ``query_dataset``."""
        return {
            **super().state_dict(),
            **self.resident.known.state(),
            "feature_names": list(self.feature_names),
            "gene_names": self.gene_names,
            "mean": self.mean,
            "size_factor_key": self.size_factor_key,
            "size_factor_scale": self.resident.size_factor_scale,
            "in_memory": self._arguments["path"] is None and self._given is not None,
        }

    def _state_keys(self) -> tuple[str, ...]:
        return (*super()._state_keys(), *REFERENCE_KEYS)
