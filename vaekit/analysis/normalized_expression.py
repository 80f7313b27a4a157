"""Expression of genes as the model sees it: denoised, and free of library size and batch."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from vaekit.analysis.decoding import batch_numbers, check_sizes, chunks, composition, draws, evaluating, in_batch
from vaekit.analysis.query import counts_reference, query_for
from vaekit.analysis.source import check_in_memory, opened, provenance
from vaekit.batch import Batch
from vaekit.data.align import QueryData
from vaekit.exceptions import DataError, nearest
from vaekit.models import VAE

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

MEMORY_SHARE = 0.5  # of the machine's memory, that a layer may take


def normalized_expression(
    adata: AnnData,
    model: VAE | str | Path,
    *,
    library_size: float | Literal["observed"] = 1e4,
    transform_batch: str | Sequence[str] | None = None,
    genes: Sequence[str] | None = None,
    layer: str | None = None,
    batch_key: str | None = None,
    key_added: str = "vaekit_normalized",
    num_samples: int = 1,
    batch_size: int = 1024,
    progress: bool = False,
    seed: int = 0,
) -> pd.DataFrame | None:
    r"""Write the expected expression of each gene in each cell into a layer, or return that of some genes.

    .. math:: \ell\, E_{q(z | x)}[\rho_g(z, s)]

    with the composition rho over genes, the library size l and the batch s.

    Parameters
    ----------
    adata
        Cells with counts; changed in ``.layers`` and ``.uns`` alone.
    model
        A trained model, or the path of its checkpoint.
    library_size
        What each cell's expression sums to over the model's genes; ``"observed"``: its size factor.
    transform_batch
        Batch that all cells are taken to come from; of several, the mean over them; None: each cell's own.
    genes
        Genes to return instead of writing a layer.
    layer, batch_key
        As in :func:`vaekit.analysis.embed`.
    key_added
        Key in ``.layers`` and ``.uns``.
    num_samples
        Draws of the latents a cell.
    batch_size
        Cells at a time; fewer where the draws of all genes would take too much memory.
    progress
        Whether to show a progress bar.
    seed
        Of the draws.

    Returns
    -------
    pandas.DataFrame or None
        Float32, a row for each cell and a column for each of ``genes``; None without ``genes``.

    Without ``genes``, sets the following fields:

    ``adata.layers[key_added]``
        Float32 ``[cells, genes]``; NaN for genes that the model does not know.
    ``adata.uns[key_added]``
        Where it comes from.

    Raises
    ------
    CheckpointError
        If the model was not trained on gene expression, or its likelihood has no composition.
    DataError
        If the cells do not fit the model, the layer would not fit into memory, or a gene or batch is unknown.
    """
    check_in_memory(adata, "denoise")
    model, checkpoint = opened(model)
    asked = Normalization(model, library_size, transform_batch, num_samples, batch_size, seed)
    wanted = None if genes is None else asked.known([genes] if isinstance(genes, str) else genes)
    shape = (adata.n_obs, adata.n_vars if wanted is None else len(wanted))
    _check_memory(*shape)
    query = query_for(model, adata, layer, batch_key)
    result = np.empty(shape, dtype=np.float32)
    asked.fill(result, query, wanted, progress)
    if wanted is not None:
        import pandas as pd

        return pd.DataFrame(result, index=adata.obs_names, columns=wanted)
    adata.layers[key_added] = result
    adata.uns[key_added] = asked.provenance(query, checkpoint)
    return None


class Normalization:
    """What :func:`normalized_expression` is asked for, checked: it can be written anywhere, a few cells at a time.

    Parameters
    ----------
    model
        A trained model.
    library_size, transform_batch, num_samples, batch_size, seed
        As there.

    Raises
    ------
    CheckpointError, DataError
        As there.
    """

    def __init__(
        self,
        model: VAE,
        library_size: float | Literal["observed"] = 1e4,
        transform_batch: str | Sequence[str] | None = None,
        num_samples: int = 1,
        batch_size: int = 1024,
        seed: int = 0,
    ) -> None:
        if library_size != "observed" and (isinstance(library_size, str) or not 0 < library_size < np.inf):
            raise DataError(f"library_size is {library_size!r}; a positive number is needed, or 'observed'")
        check_sizes(num_samples, batch_size)
        self.model = model
        self.library_size = library_size
        reference = counts_reference(model)
        self.names, self.batches = list(reference["feature_names"]), list(reference["batch_categories"])
        self.numbers = [] if transform_batch is None else batch_numbers(model, transform_batch)  # type: ignore[arg-type]
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed

    def known(self, genes: Sequence[str]) -> list[str]:
        """Return the genes, if the model knows all of them."""
        wanted = [str(gene) for gene in genes]
        if not wanted:
            raise DataError(f"genes names no gene; {nearest('', self.names)}")
        if unknown := [gene for gene in wanted if gene not in set(self.names)]:
            raise DataError(
                f"genes: the model does not know {', '.join(map(repr, unknown[:5]))}; {nearest(unknown[0], self.names)}"
            )
        return wanted

    def fill(self, into: Any, query: QueryData, genes: Sequence[str] | None = None, progress: bool = False) -> None:
        """Write the expression of ``genes`` into an array or a data set on disk, float32 ``[cells, genes]``.

        Without ``genes`` its columns are all genes of ``query.adata``, NaN for those that the model does not know.
        """
        from tqdm.auto import tqdm

        model, cells = self.model, len(query.dataset)
        place = {gene: number for number, gene in enumerate(self.names)}
        columns = torch.tensor([place[gene] for gene in genes or self.names], device=model.device)
        gene_names = counts_reference(model)["gene_names"]
        target = np.arange(len(genes)) if genes is not None else _columns(query.adata, gene_names, self.names)
        known = target >= 0
        with (
            evaluating(model, self.seed),
            tqdm(total=cells, desc="normalizing", unit="cell", disable=not progress) as bar,
        ):
            for rows, batch in chunks(model, query.dataset, torch.arange(cells), self.num_samples, self.batch_size):
                rho = self._composition(batch)[:, columns]
                size = batch.size_factor if self.library_size == "observed" else self.library_size
                assert size is not None  # a count likelihood has size factors
                part = np.full((len(rows), into.shape[1]), np.nan, dtype=np.float32)
                part[:, target[known]] = (rho * size).cpu().numpy()[:, known]
                into[int(rows[0]) : int(rows[-1]) + 1] = part
                bar.update(len(rows))

    def provenance(self, query: QueryData, checkpoint: str) -> dict[str, Any]:
        """Return where the layer comes from, as plain data for ``adata.uns``."""
        return {
            **provenance(self.model, query.missing_genes, checkpoint),
            "library_size": str(self.library_size),
            "transform_batch": np.array([self.batches[number] for number in self.numbers], dtype=str),
        }

    def _composition(self, batch: Batch) -> Tensor:
        """Return the posterior mean of the composition, averaged over batches if some are named, ``[batch, genes]``."""
        values = draws(self.model, batch, self.num_samples)
        places = [in_batch(batch, number, len(self.batches)) for number in self.numbers] or [batch]
        return torch.stack([composition(self.model, values, place).mean(0) for place in places]).mean(0)


def _columns(adata: AnnData, column: str | None, names: list[str]) -> np.ndarray:
    """Return the column of ``adata`` of each of the model's genes, -1 for those that it lacks."""
    found = adata.var[column] if column in adata.var.columns else adata.var_names
    place = {str(gene): number for number, gene in enumerate(found)}
    columns = np.array([place.get(gene, -1) for gene in names])
    if (columns < 0).all():
        where = "adata.var_names" if column is None else f"adata.var[{column!r}]"
        raise DataError(
            f"none of the model's genes ({names[0]!r}, ...) is in {where}, where a layer has its columns "
            "(.raw has others): give adata.var such names, or name genes=[...], which returns a table"
        )
    return columns


def _check_memory(cells: int, genes: int) -> None:
    """Raise an error if a table would take more than half of the machine's memory."""
    needed, total = 4 * cells * genes, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > MEMORY_SHARE * total:
        raise DataError(
            f"{cells} cells x {genes} genes take {needed / 1e9:.1f} GB and this machine has {total / 1e9:.1f} GB: name "
            "fewer genes (genes=[...]), or pass fewer cells"
        )
