"""The cells that a command works on: a file's, or those that the model was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vaekit.exceptions import CheckpointError

if TYPE_CHECKING:
    from anndata import AnnData

    from vaekit.models import VAE


def cells_of(model: VAE, checkpoint: str, data: str | None, layer: str | None) -> tuple[AnnData, str | None]:
    """Return the cells of the file ``data`` (None: of the training data) and the layer of their counts.

    Raises
    ------
    CheckpointError
        If the training data are wanted and were images, in memory, or are not there.
    DataError
        If the file cannot be read.
    """
    from vaekit.analysis import training_data
    from vaekit.data.sources import open_adata

    if data is not None:
        return open_adata(data)[0], layer
    trained = training_data(model)
    if trained.kind != "counts":
        raise CheckpointError(f"{checkpoint} was trained on images; this is for gene expression")
    return trained.adata, layer or trained.counts_layer  # type: ignore[attr-defined]
