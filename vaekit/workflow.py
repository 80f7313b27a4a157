"""From cells to a trained model in one call: data, recipe, length of the training, and the best weights.

A recipe is a packaged configuration. Python (:func:`fit`) and the command line (``vaekit fit cells.h5ad``) complete it
by the same function, :func:`fit_config`.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.utilities.seed import isolate_rng

from vaekit._core.components import from_config
from vaekit._core.config_store import find_config
from vaekit.callbacks import BestWeights
from vaekit.callbacks.run_archive import report_archive
from vaekit.callbacks.run_callbacks import run_callbacks
from vaekit.data import GeneExpressionData
from vaekit.data.cells.sources import open_counts
from vaekit.exceptions import ConfigError, did_you_mean
from vaekit.models import VAE, DiscreteVAE, GaussianVAE, MixedVAE

if TYPE_CHECKING:
    from anndata import AnnData

RECIPES = {  # packaged configuration by kind of latents
    "gaussian": "pbmc_clusters",
    "mixed": "pbmc_mixed",
    "states": "pbmc_states",
    "topics": "pbmc_topics",
    "discrete": "pbmc_discrete",
}
MIN_STEPS, MAX_STEPS = 1000, 20_000
NUM_VALIDATIONS = 50  # per run, of which PATIENCE without an improvement end it
PATIENCE = 15
NUM_GENES = 2000  # most variable ones, of a whole transcriptome
MAX_PANEL_GENES = 8000  # data with more genes are a whole transcriptome; targeted panels have at most 6,000

SECTIONS = {  # classes whose arguments are settings of :func:`fit`
    "data": (GeneExpressionData,),
    "model": (GaussianVAE, MixedVAE, DiscreteVAE, VAE),
    "trainer": (pl.Trainer,),
}
NOT_SETTINGS = ("features", "covariates", "adata", "path", "latents")  # given by the cells and the recipe
OTHER_NAMES = {"seed": "seed_everything", "directory": "trainer.default_root_dir"}


def fit(
    cells: AnnData | str | Path | Sequence[str | Path],
    latents: str = "gaussian",
    *,
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

    The number of steps follows from the number of cells, about one step per cell (:func:`default_num_steps`). Training
    ends earlier if the ELBO of the validation cells, a tenth of all, no longer improves. After an interrupt (Ctrl-C, or
    the stop button of a notebook), the model trained so far is returned. Nothing is written to the disk without
    ``directory``. The RNG states of the process do not change.

    Parameters
    ----------
    cells : AnnData, path, or list of paths
        UMI counts of cells, or their files. If there are more than 8,000 genes, the 2,000 most variable ones are
        modeled; ``n_top_genes`` sets another number, or None for all.
    latents : str
        "gaussian" for embeddings and clusters; "mixed" for a category and a Gaussian; "states" for the input of
        :func:`vaekit.analysis.states`; "topics" for proportions of gene programs; "discrete" for a description in
        parts. Each is a packaged configuration (:data:`RECIPES`; ``vaekit configs`` lists them).
    batch_key : str or None
        Column of ``.obs`` with the batch of each cell, such as the donor.
    label_key : str or None
        Column of ``.obs`` with cell types. It stratifies the split and is never used in training.
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
        Further arguments of :class:`vaekit.data.GeneExpressionData`, of the class of the model, and of
        ``pytorch_lightning.Trainer``, such as ``likelihood="zinb"``, ``latent_dim=30`` or ``accelerator="cpu"``.

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
        If a kind of latents or a setting does not exist or cannot be used.

    Examples
    --------
    >>> import vaekit
    >>> adata = vaekit.data.simulate_counts(cells=200, genes=50)
    >>> model = vaekit.fit(adata, batch_key="batch", max_steps=20, progress=False)
    >>> _ = vaekit.analysis.embed(adata, model)
    >>> adata.obsm["X_vaekit"].shape
    (200, 20)
    """
    named = {"batch_key": batch_key, "label_key": label_key, "layer": layer, "max_steps": max_steps}
    settings |= {name: value for name, value in named.items() if value is not None}
    values = {setting_key(name): value for name, value in settings.items()}
    config = fit_config(cells, latents, values)
    for key, value in values.items():
        section, _, name = key.partition(".")
        arguments = config[section] if section == "trainer" else config[section]["init_args"]
        arguments[name] = [*arguments[name], *value] if name == "callbacks" else value
    with _seeded(seed), _quiet():
        data = GeneExpressionData(**config["data"]["init_args"])
        arguments = {**config["model"]["init_args"], "features": data.features, "covariates": data.covariates}
        model = from_config({**config["model"], "init_args": arguments})
        _train(model, data, from_config(config["trainer"]), directory, progress)
    return model


def fit_config(
    cells: AnnData | str | Path | Sequence[str | Path], latents: str, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the configuration of a run: the recipe, completed for the number of cells and genes.

    Parameters
    ----------
    cells : AnnData, path, or list of paths
        The cells, of which the tables are read but not the counts.
    latents : str
        Kind of latents, a key of :data:`RECIPES`.
    settings : Mapping[str, Any]
        Values by key of the configuration, such as ``{"data.layer": "counts"}``. They decide how the cells are read;
        the caller writes them into the configuration.

    Raises
    ------
    ConfigError
        If the kind of latents or the number of steps is not valid.
    DataError
        If the cells cannot be opened.

    Examples
    --------
    >>> from vaekit.data import simulate_counts
    >>> config = fit_config(simulate_counts(cells=5000, genes=50), "mixed", {})
    >>> config["model"]["class_path"], config["trainer"]["max_steps"]
    ('vaekit.MixedVAE', 5000)
    """
    if latents not in RECIPES:
        raise ConfigError(f"latents={latents!r} is unknown. {did_you_mean(str(latents), RECIPES)}")
    paths = [cells] if isinstance(cells, str | Path) else cells
    layer, gene_name_key, genes_in = (settings.get(f"data.{name}") for name in ("layer", "gene_name_key", "genes_in"))
    source = open_counts(cells, layer, gene_name_key, "backed", genes_in=genes_in)
    num_steps = settings.get("trainer.max_steps", default_num_steps(len(source)))
    if not isinstance(num_steps, int) or num_steps < 1:
        raise ConfigError(f"max_steps={num_steps!r} must be a positive integer.")
    config = yaml.safe_load(find_config(RECIPES[latents]).read_text(encoding="utf-8"))
    data = config["data"]["init_args"]
    data |= {"path": [str(path) for path in paths]} if isinstance(paths, Sequence) else {"adata": cells}
    data["n_top_genes"] = NUM_GENES if len(source.genes) > MAX_PANEL_GENES else None
    del config["trainer"]["default_root_dir"]  # of the packaged data
    config["trainer"] |= {
        "max_steps": num_steps,
        "check_val_every_n_epoch": None,  # validations count steps, not epochs
        "val_check_interval": max(1, num_steps // NUM_VALIDATIONS),
        "callbacks": [{"class_path": "vaekit.callbacks.ELBOEarlyStopping", "init_args": {"patience": PATIENCE}}],
    }
    if settings.get("trainer.max_epochs") is not None and "trainer.max_steps" not in settings:
        config["trainer"] |= {
            "max_steps": -1,
            "check_val_every_n_epoch": 1,
            "val_check_interval": None,
            "callbacks": [],
        }
    return config


def default_num_steps(num_cells: int) -> int:
    """Return the number of training steps for a number of cells: one per cell, from 1,000 to 20,000.

    Few cells are overfitted by more steps, and of many cells each step sees new ones.

    Examples
    --------
    >>> default_num_steps(700), default_num_steps(2638), default_num_steps(1_000_000)
    (1000, 2638, 20000)
    """
    return min(max(num_cells, MIN_STEPS), MAX_STEPS)


def setting_key(name: str) -> str:
    """Return the key of the configuration that a setting of :func:`fit` means.

    Raises
    ------
    ConfigError
        If it does not exist.

    Examples
    --------
    >>> setting_key("layer"), setting_key("latent_dim"), setting_key("accelerator")
    ('data.layer', 'model.latent_dim', 'trainer.accelerator')
    """
    if name in OTHER_NAMES:
        return OTHER_NAMES[name]
    valid: dict[str, str] = {}
    for section, classes in SECTIONS.items():
        for parameter in (parameter for cls in classes for parameter in inspect.signature(cls).parameters):
            valid.setdefault(parameter, f"{section}.{parameter}")
    valid = {parameter: key for parameter, key in valid.items() if parameter not in NOT_SETTINGS}
    if name not in valid:
        hint = did_you_mean(name, valid, limit=0)
        raise ConfigError(
            f"{name!r} is not a setting of fit. "
            + (f"{hint} " if hint.startswith("Did") else "")
            + "Settings are the arguments of GeneExpressionData, the model and pytorch_lightning.Trainer."
        )
    return valid[name]


def _train(
    model: VAE, data: GeneExpressionData, arguments: dict[str, Any], directory: str | Path | None, progress: bool
) -> None:
    """Train the model, and load the best weights; an interrupt ends the training."""
    best = BestWeights()
    own = arguments.pop("callbacks")
    if directory is not None:
        report_archive(Path(directory))
    defaults = {"logger": False, "devices": 1, "enable_model_summary": False, "num_sanity_val_steps": 0}
    trainer = pl.Trainer(
        **{**defaults, **arguments},
        default_root_dir=directory,
        enable_checkpointing=directory is not None,
        enable_progress_bar=progress,
        callbacks=[*own, best, *run_callbacks(directory is not None, progress)],
    )
    with _restored_interrupt():
        try:
            trainer.fit(model, datamodule=data)
        except SystemExit:  # raised by Lightning after Ctrl-C
            if not trainer.interrupted:
                raise
            warnings.warn(_interrupted(trainer, best), UserWarning, stacklevel=3)
    best.restore(model)
    model._trainer = None  # refers to the data
    model.eval()


def _interrupted(trainer: pl.Trainer, best: BestWeights) -> str:
    weights = "the last step" if best.step is None else f"step {best.step}, of the best validation so far"
    return (
        f"Training interrupted at step {trainer.global_step} of {trainer.max_steps}. The model has the weights of "
        f"{weights}. Run fit again for a complete training."
    )


@contextlib.contextmanager
def _restored_interrupt() -> Iterator[None]:
    """Restore the handler of Ctrl-C, which Lightning replaces after an interrupt."""
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if is_main:
            signal.signal(signal.SIGINT, handler)


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the generators like ``vaekit fit --seed_everything``, and restore them and the environment at the end."""
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ConfigError(f"seed={seed!r} must be a whole number from 0 to {2**32 - 1}.")
    names = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")
    before = {name: os.environ.get(name) for name in names}
    with isolate_rng(include_cuda=torch.cuda.is_available()):
        try:
            pl.seed_everything(seed, verbose=False)
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the notices of Lightning on devices and workers."""
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    logger.setLevel(max(level, logging.WARNING))
    try:
        with warnings.catch_warnings():
            for message in (".*does not have many workers.*", ".*isinstance.treespec, LeafSpec.*", ".*is not empty.*"):
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        logger.setLevel(level)
