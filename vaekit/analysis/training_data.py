"""Training data of a model: loaded again with the same split, or compared with a data module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit._core.components import from_config
from vaekit._core.urls import is_url, path_text
from vaekit.analysis.model_source import check_in_memory, get_data_registry
from vaekit.data.cells.backed_counts import StoredMatrix
from vaekit.data.cells.file_formats import are_stores
from vaekit.data.cells.stores import absolute_paths
from vaekit.data.data_module import DataModule
from vaekit.data.fingerprint import check_fingerprint
from vaekit.exceptions import CheckpointError, DataError
from vaekit.models import VAE
from vaekit.models.resume import check_same_features

if TYPE_CHECKING:
    from anndata import AnnData


def load_training_data(
    model: VAE, backed: bool = False, cells: AnnData | str | Path | Sequence[str | Path] | None = None
) -> DataModule:
    """Return the data module that a model was trained on, with the same split.

    Parameters
    ----------
    model : VAE
        Trained model.
    backed : bool
        Whether counts that are stored as CSR stay in their files, regardless of their size.
    cells : AnnData, path, sequence of paths, or None
        The same data in memory or at another path (``data`` in messages). None means the path of the training.

    Raises
    ------
    CheckpointError
        If the data were in memory only, or have changed.

    Examples
    --------
    >>> import pytorch_lightning as pl, vaekit
    >>> data = vaekit.data.ImageData("digits")
    >>> digits = vaekit.GaussianVAE(data.features, vaekit.likelihoods.Bernoulli())
    >>> trainer = pl.Trainer(max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    >>> trainer.fit(digits, datamodule=data)
    >>> len(vaekit.analysis.load_training_data(digits).dataset)
    1797
    """
    registry = get_data_registry(model)
    if registry.get("in_memory") and cells is None:
        raise CheckpointError("The model was trained on an AnnData in memory. Pass the file to use (data.path).")
    config = registry["config"] if cells is None else _at_another_path(registry["config"], cells)
    try:
        path = config["init_args"].get("path") if backed and "feature_names" in registry else None
        if path is not None and _may_stream(absolute_paths(path), registry["matrix"]):
            config = {**config, "init_args": {**config["init_args"], "mode": "streamed"}}
        data = from_config(config)
        data.load_state_dict(registry)
        data.setup()
    except DataError as error:
        remedy = _path_remedy(config) if cells is None else ""
        raise CheckpointError(f"The training data of the model cannot be loaded unchanged: {error}{remedy}") from error
    return data


def check_training_data(model: VAE, data: DataModule) -> None:
    """Check that a data module has the training data of a model with the same names and the same split.

    Raises
    ------
    DataError
        If it has other observations or another split, so that held-out ones may be from the training.
    CheckpointError
        If the features or covariates are others, or the model was never trained.
    """
    registry = get_data_registry(model)
    state = data.state_dict()
    check_fingerprint(state["fingerprint"], state["source"], registry)
    check_same_features(registry, state)
    split = registry["split_indices"]
    if not all(np.array_equal(indices, split[name]) for name, indices in state["split_indices"].items()):
        raise DataError(
            f"data: the {type(data).__name__} has another split than the training of the model, whose held-out "
            "observations would not be those. Pass the cells instead, such as data=adata; the split is the model's."
        )


def _may_stream(paths: Sequence[str], matrix: str) -> bool:
    """Return whether the counts of all files are stored as CSR in .h5ad files or zarr stores."""
    return are_stores(paths) and all(StoredMatrix(path, matrix).is_csr for path in paths)


def _at_another_path(config: Mapping[str, Any], cells: Any) -> dict[str, Any]:
    """Return the configuration of a data module with other cells, in memory or in files."""
    paths = [cells] if isinstance(cells, str | Path) else list(cells) if isinstance(cells, Sequence) else []
    if len(paths) == 1:
        source: dict[str, Any] = {"path": path_text(paths[0])}
    elif "adata" not in config["init_args"]:
        raise DataError(f"data={cells!r} must be the path of the images that the model was trained on.")
    elif paths:
        source = {"path": [path_text(path) for path in paths]}
    else:
        check_in_memory(cells, argument="data")
        source = {"path": None, "adata": cells}
    return {**config, "init_args": {**config["init_args"], **source}}


def _path_remedy(config: Mapping[str, Any]) -> str:
    """Return a sentence for an exported model, which stores names of files without directories; else ""."""
    path = config["init_args"].get("path")
    names = [path] if isinstance(path, str) else path or []
    if all(is_url(name) or Path(name).is_absolute() for name in names):
        return ""
    return (
        f" An exported model does not store the directory of its training data ({', '.join(names)}). Pass the path of "
        "the cells (evaluate: --data.path), or run in their directory."
    )
