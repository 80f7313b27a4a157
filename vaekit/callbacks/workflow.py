"""From cells to a trained model in one call: data, recipe, length of the training, and the best weights.

A recipe is a packaged configuration. Python (:func:`fit`) and the command line (``vaekit fit cells.h5ad``) complete it
by the same function, :func:`vaekit.callbacks.recipes.fit_config`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaekit._core.components import from_config
from vaekit._core.run_context import quiet, seeded
from vaekit._core.warning_log import record_warnings
from vaekit.callbacks.fit_settings import set_key, settings_by_key
from vaekit.callbacks.recipes import choose_kind, fit_config
from vaekit.callbacks.run_directory import claimed
from vaekit.callbacks.run_record import RunRecord
from vaekit.callbacks.train_model import check_settings, train_model
from vaekit.data import GeneExpressionData
from vaekit.models import VAE

if TYPE_CHECKING:
    from anndata import AnnData


def fit(
    cells: AnnData | str | Path | Sequence[str | Path],
    latents: str | None = None,
    *,
    labels: str | None = None,
    batch_key: str | None = None,
    label_key: str | None = None,
    layer: str | None = None,
    max_steps: int | None = None,
    seed: int = 0,
    directory: str | Path | None = None,
    progress: bool = True,
    **settings: Any,
) -> VAE:
    """Train a model on cells, and return it with the weights of the best validation.

    The number of steps follows from the number of cells (:func:`vaekit.callbacks.recipes.default_num_steps`). Training
    ends earlier if the ELBO of the validation cells, a tenth of all, no longer improves. After an interrupt (Ctrl-C, or
    the stop button of a notebook), the model trained so far is returned. No file is written without ``directory``. The
    RNG states of the process do not change.

    Parameters
    ----------
    cells : AnnData, path, or list of paths
        UMI counts of cells, or their files. If there are more than 8,000 genes, the 2,000 most variable ones are
        modeled; ``n_top_genes`` sets another number, or None for all.
    latents : str or None
        "gaussian" for embeddings and clusters; "mixed" for a category and a Gaussian; "states" for the input of
        :func:`vaekit.analysis.states`; "topics" for proportions of gene programs; "discrete" for a description in
        parts; "labels" for cell types that are known for some cells. Each is a packaged configuration
        (:data:`vaekit.callbacks.recipes.RECIPES`; ``vaekit configs`` lists them). None means "labels" with ``labels``,
        otherwise "gaussian".
    labels : str or None
        Column of ``.obs`` with the cell types that are known for some cells, from which the model learns to predict
        those of the others. Unknown is an empty or missing value, or "Unknown" (``unlabeled_category``).
    batch_key : str or None
        Column of ``.obs`` with the batch of each cell, such as the donor.
    label_key : str or None
        Column of ``.obs`` with cell types for comparison. It stratifies the split and is never used in training.
    layer : str or None
        Layer of the counts. None means ``.X``; "raw" means ``.raw.X``.
    max_steps : int or None
        Number of training steps. None follows from the number of cells.
    seed : int
        Seed of the weights, the order of the cells and the samples.
    directory : path or None
        Run directory for checkpoints and figures, whose earlier run is moved to ``earlier/``. None writes no file.
    progress : bool
        Whether to show a progress bar.
    **settings
        Further arguments of :class:`vaekit.data.GeneExpressionData`, of the model and its latents, and of
        ``pytorch_lightning.Trainer``: ``likelihood="zinb"``, ``latent_dim=30``, ``topics=12``, ``accelerator="cpu"``.

    Returns
    -------
    VAE
        Trained model in evaluation mode on the CPU, for the functions of :mod:`vaekit.analysis` and
        :func:`vaekit.save`.

    Raises
    ------
    DataError
        If the cells cannot be read, or are not counts.
    ConfigError
        If a setting or the kind of latents does not exist or cannot be used.

    Examples
    --------
    >>> import vaekit
    >>> adata = vaekit.data.simulate_counts(cells=200, genes=50)
    >>> model = vaekit.fit(adata, batch_key="batch", max_steps=20, progress=False)
    >>> _ = vaekit.analysis.embed(adata, model)
    >>> adata.obsm["X_vaekit"].shape
    (200, 20)
    """
    named = {"labels": labels, "batch_key": batch_key, "label_key": label_key, "layer": layer, "max_steps": max_steps,
             "directory": directory}  # fmt: skip
    latents = choose_kind(latents, labels)
    given = {name: value for name, value in named.items() if value is not None}
    values = settings_by_key({**given, **settings}, latents)
    values.setdefault("trainer.enable_progress_bar", progress)
    directory = values.pop("trainer.default_root_dir", None)
    config = fit_config(cells, latents, values)
    for key, value in values.items():
        set_key(config, key, value)
    trainer = from_config(config["trainer"])
    check_settings(trainer, directory is not None)
    with seeded(seed), quiet(), record_warnings() as messages, claimed(directory) as place:
        data = GeneExpressionData(**config["data"]["init_args"])
        arguments = {**config["model"]["init_args"], "features": data.features, "covariates": data.covariates}
        arguments |= {"labels": data.observed_categories} if data.observed_categories else {}
        model = from_config({**config["model"], "init_args": arguments})
        train_model(model, data, trainer, place, RunRecord(messages))
    return model
