"""Expression of genes as the model sees it: denoised, and free of library size and batch."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from vaekit.analysis.decoding import batch_indices, check_sizes, chunks, composition, draws, evaluating, set_batch
from vaekit.analysis.fields import check_free
from vaekit.analysis.model_source import check_in_memory, provenance, resolve_model
from vaekit.analysis.query import counts_reference, prepare_query
from vaekit.batch import Batch
from vaekit.data.cells.align import QueryData
from vaekit.data.cells.genes import rename_versions
from vaekit.diagnostics.keyed_noise import hash_names, observation_keys
from vaekit.exceptions import DataError, did_you_mean, format_bytes
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
    ``adata.obsm[key_added]``
        Float32 ``[cells, genes of the model]``, only if ``adata.var`` lacks some of the genes, such as those that
        ``.raw`` alone has.
    ``adata.uns[key_added]``
        Where it comes from; ``"genes"`` are the names of the columns in ``.obsm``.

    Warns
    -----
    UserWarning
        If ``adata.var`` lacks genes of the model that the counts have.

    Raises
    ------
    CheckpointError
        If the model was not trained on gene expression, or its likelihood has no composition.
    DataError
        If the cells do not fit the model, the layer would not fit into memory, a gene or batch is unknown, or
        ``key_added`` is taken.
    """
    check_in_memory(adata, "denoise")
    model, checkpoint = resolve_model(model)
    asked = NormalizedExpressionWriter(model, library_size, transform_batch, num_samples, batch_size, seed)
    wanted = None if genes is None else asked.known([genes] if isinstance(genes, str) else genes)
    if wanted is None:
        check_free(adata, key_added, {"layers": [key_added], "obsm": [key_added]}, key_added)
    _check_memory(adata.n_obs, adata.n_vars if wanted is None else len(wanted))
    query = prepare_query(model, adata, layer, batch_key)
    if wanted is not None:
        import pandas as pd

        result = np.empty((adata.n_obs, len(wanted)), dtype=np.float32)
        asked.write(result, query, wanted, progress)
        return pd.DataFrame(result, index=adata.obs_names, columns=wanted)
    shapes = asked.shapes(query, key_added)
    _check_memory(adata.n_obs, sum(shape[1] for shape in shapes.values()))
    arrays = {place: np.empty(shape, dtype=np.float32) for place, shape in shapes.items()}
    asked.write_all(arrays, query, progress)
    for place in ("layers", "obsm"):
        getattr(adata, place).pop(key_added, None)
        getattr(adata, place).update({key_added: arrays[place]} if place in arrays else {})
    adata.uns[key_added] = asked.provenance(query, checkpoint)
    return None


class NormalizedExpressionWriter:
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
        registry = counts_reference(model)
        self.names, self.batches = list(registry["feature_names"]), list(registry["batch_categories"])
        self.numbers = [] if transform_batch is None else batch_indices(model, transform_batch)  # type: ignore[arg-type]
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed

    def known(self, genes: Sequence[str]) -> list[str]:
        """Return the genes, if the model knows all of them."""
        wanted = [str(gene) for gene in genes]
        if not wanted:
            raise DataError(f"genes names no gene. {did_you_mean('', self.names)}")
        if unknown := [gene for gene in wanted if gene not in set(self.names)]:
            raise DataError(
                f"genes: the model does not know {', '.join(map(repr, unknown[:5]))}. "
                f"{did_you_mean(unknown[0], self.names)}"
            )
        return wanted

    def shapes(self, query: QueryData, key: str) -> dict[str, tuple[int, int]]:
        """Return the shapes of the arrays that hold all genes, by their place in an AnnData.

        ``layers`` has the columns of ``.var``. Where this table lacks genes of the model that the counts have, as
        ``.raw`` has more, ``obsm`` has all genes of the model.
        """
        found = {self.names[number] for number in np.flatnonzero(self._columns(query) >= 0)}
        left_out = [name for name in self.names if name not in found | set(query.missing_genes)]
        cells, shapes = len(query.dataset), {}
        if found or not left_out:
            shapes["layers"] = (cells, query.adata.n_vars)
        if left_out:
            shapes["obsm"] = (cells, len(self.names))
            warnings.warn(
                f"{len(left_out)} of the model's {len(self.names)} genes, such as {left_out[0]!r}, have no column in "
                f".var of {query.source}, and so no column in a layer. All genes are written to obsm[{key!r}]; their "
                f"names are in uns[{key!r}]['genes'].",
                UserWarning,
                stacklevel=3,
            )
        return shapes

    def write_all(self, arrays: Mapping[str, Any], query: QueryData, progress: bool = False) -> None:
        """Write the expression of all genes into arrays or data sets on disk of the :meth:`shapes`."""
        columns = {"layers": self._columns(query), "obsm": np.arange(len(self.names))}
        self._fill([(array, columns[place]) for place, array in arrays.items()], query, self.names, progress)

    def write(self, into: Any, query: QueryData, genes: Sequence[str], progress: bool = False) -> None:
        """Write the expression of ``genes`` into an array or a data set on disk, float32 ``[cells, genes]``."""
        self._fill([(into, np.arange(len(genes)))], query, genes, progress)

    def _fill(
        self, targets: Sequence[tuple[Any, np.ndarray]], query: QueryData, genes: Sequence[str], progress: bool
    ) -> None:
        """Write ``genes`` into the given columns of each array, and NaN into its other columns; -1 is no column."""
        from tqdm.auto import tqdm

        model, cells = self.model, len(query.dataset)
        place = {gene: number for number, gene in enumerate(self.names)}
        columns = torch.tensor([place[gene] for gene in genes], device=model.device)
        names = hash_names(query.obs_names)
        with (
            evaluating(model, self.seed),
            tqdm(total=cells, desc="normalizing", unit="cell", disable=not progress) as bar,
        ):
            for rows, batch in chunks(model, query.dataset, torch.arange(cells), self.num_samples, self.batch_size):
                keys = observation_keys(batch, self.seed, names[rows.numpy()])
                rho = self._composition(batch, keys)[:, columns]
                size = batch.size_factor if self.library_size == "observed" else self.library_size
                assert size is not None  # a count likelihood has size factors
                values = (rho * size).cpu().numpy()
                for array, target in targets:
                    part = np.full((len(rows), array.shape[1]), np.nan, dtype=np.float32)
                    part[:, target[target >= 0]] = values[:, target >= 0]
                    array[int(rows[0]) : int(rows[-1]) + 1] = part
                bar.update(len(rows))

    def provenance(self, query: QueryData, checkpoint: str) -> dict[str, Any]:
        """Return where the layer comes from, as plain data for ``adata.uns``."""
        return {
            **provenance(self.model, query.missing_genes, checkpoint),
            "genes": np.array(self.names, dtype=str),
            "library_size": str(self.library_size),
            "transform_batch": np.array([self.batches[number] for number in self.numbers], dtype=str),
        }

    def _columns(self, query: QueryData) -> np.ndarray:
        """Return the column of ``query.adata`` of each of the model's genes, -1 for those that it lacks or repeats."""
        import pandas as pd

        table, key = query.adata.var, counts_reference(self.model)["gene_name_key"]
        genes = (table[key] if key in table.columns else table.index).astype(str)
        found = pd.Index(rename_versions(list(genes), self.names, query.source))
        once = np.flatnonzero(~found.duplicated(keep=False))
        columns = pd.Series(once, index=found[once]).reindex(self.names, fill_value=-1)
        return columns.to_numpy(dtype=np.int64)

    def _composition(self, batch: Batch, keys: np.ndarray) -> Tensor:
        """Return the posterior mean of the composition, averaged over batches if some are named, ``[batch, genes]``."""
        values = draws(self.model, batch, self.num_samples, keys)
        places = [set_batch(batch, number, len(self.batches)) for number in self.numbers] or [batch]
        return torch.stack([composition(self.model, values, place).mean(0) for place in places]).mean(0)


def _check_memory(cells: int, genes: int) -> None:
    """Raise an error if a table would take more than half of the machine's memory."""
    needed, total = 4 * cells * genes, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > MEMORY_SHARE * total:
        raise DataError(
            f"{cells} cells x {genes} genes take {format_bytes(needed)} and this machine has {format_bytes(total)}: "
            "name fewer genes (genes=[...]), or pass fewer cells"
        )
