"""From cells to a trained model in one call: data, recipe, length of the training, and the best weights.

A recipe is a packaged configuration. Python (:func:`fit`) and the command line (``vaekit fit cells.h5ad``) complete it
by the same function, :func:`fit_config`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl
import yaml

from vaekit._core.arguments import as_integer
from vaekit._core.components import from_config
from vaekit._core.config_store import find_config
from vaekit._core.run_context import quiet, seeded
from vaekit._core.warning_log import record_warnings
from vaekit.callbacks.run_callbacks import as_list
from vaekit.callbacks.run_directory import claimed
from vaekit.callbacks.run_record import RunRecord
from vaekit.callbacks.train_model import check_settings, train_model
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
    "labels": "pbmc_labels",
}
MIN_STEPS, MAX_STEPS = 1000, 20_000
NUM_VALIDATIONS = 50  # per run, of which PATIENCE without an improvement end it
PATIENCE = 15
NUM_GENES = 2000  # most variable ones, of a whole transcriptome
MAX_PANEL_GENES = 8000  # data with more genes are a whole transcriptome; targeted panels have at most 6,000

MODELS = (GaussianVAE, MixedVAE, DiscreteVAE, VAE)
SETTINGS = (
    "Settings are the arguments of GeneExpressionData, of the model and its latents, and of pytorch_lightning.Trainer."
)
# given by cells, labels and recipe
NOT_SETTINGS = ("features", "covariates", "labels", "observed_key", "adata", "path", "latents", "encoder", "decoder")
LABELS_KEY = "model.latents.y.observed_key"
OTHER_NAMES = {"seed": "seed_everything", "directory": "trainer.default_root_dir", "labels": LABELS_KEY,
               "progress": "trainer.enable_progress_bar"}  # fmt: skip


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

    The number of steps follows from the number of cells (:func:`default_num_steps`). Training ends earlier if the ELBO
    of the validation cells, a tenth of all, no longer improves. After an interrupt (Ctrl-C, or the stop button of a
    notebook), the model trained so far is returned. No file is written without ``directory``. The RNG states of the
    process do not change.

    Parameters
    ----------
    cells : AnnData, path, or list of paths
        UMI counts of cells, or their files. If there are more than 8,000 genes, the 2,000 most variable ones are
        modeled; ``n_top_genes`` sets another number, or None for all.
    latents : str or None
        "gaussian" for embeddings and clusters; "mixed" for a category and a Gaussian; "states" for the input of
        :func:`vaekit.analysis.states`; "topics" for proportions of gene programs; "discrete" for a description in
        parts; "labels" for cell types that are known for some cells. Each is a packaged configuration
        (:data:`RECIPES`; ``vaekit configs`` lists them). None means "labels" with ``labels``, otherwise "gaussian".
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
    values = _values({**{name: value for name, value in named.items() if value is not None}, **settings}, latents)
    values.setdefault("trainer.enable_progress_bar", progress)
    directory = values.pop("trainer.default_root_dir", None)
    config = fit_config(cells, latents, values)
    for key, value in values.items():
        _set(config, key, value)
    trainer = from_config(config["trainer"])
    check_settings(trainer, directory is not None)
    with seeded(seed), quiet(), record_warnings() as messages, claimed(directory) as place:
        data = GeneExpressionData(**config["data"]["init_args"])
        arguments = {**config["model"]["init_args"], "features": data.features, "covariates": data.covariates}
        arguments |= {"labels": data.observed_categories} if data.observed_categories else {}
        model = from_config({**config["model"], "init_args": arguments})
        train_model(model, data, trainer, place, RunRecord(messages))
    return model


def _values(settings: Mapping[str, Any], latents: str) -> dict[str, Any]:
    """Return the settings by key of the configuration; raise a ConfigError if two of them contradict each other."""
    values: dict[str, Any] = {}
    for name, value in settings.items():
        key = setting_key(name, latents)
        if key in values and values[key] != value:
            raise ConfigError(f"{name}={value!r} sets {key}, which is already {values[key]!r}. Omit one of them.")
        values[key] = value.item() if isinstance(value, np.generic) else value  # Lightning rejects NumPy's scalars
    return values


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
    ('vaekit.MixedVAE', 3536)
    """
    config = read_recipe(latents)
    labels = settings.get(LABELS_KEY)
    choose_kind(latents, labels)
    paths = [cells] if isinstance(cells, str | Path) else cells
    layer, gene_name_key, genes_in = (settings.get(f"data.{name}") for name in ("layer", "gene_name_key", "genes_in"))
    source = open_counts(cells, layer, gene_name_key, "backed", genes_in=genes_in)
    max_steps = settings.get("trainer.max_steps", default_num_steps(len(source)))
    num_steps = as_integer(max_steps)
    if num_steps is None or num_steps < 1:
        raise ConfigError(f"max_steps={max_steps!r} must be a positive integer.")
    data = config["data"]["init_args"]
    data |= {"path": [str(path) for path in paths]} if isinstance(paths, Sequence) else {"adata": cells}
    data["n_top_genes"] = NUM_GENES if len(source.genes) > MAX_PANEL_GENES else None
    if labels is not None:
        data["observed_key"] = labels
    del config["trainer"]["default_root_dir"]  # of the packaged data
    config["trainer"] |= {
        "max_steps": num_steps,
        **_validation_interval(settings, num_steps),
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


def _validation_interval(settings: Mapping[str, Any], num_steps: int) -> dict[str, int | None]:
    """Return the interval of validations: steps, unless the settings count epochs or fractions of an epoch."""
    interval, epochs = (settings.get(f"trainer.{name}") for name in ("val_check_interval", "check_val_every_n_epoch"))
    if epochs is not None or isinstance(interval, float):
        return {"check_val_every_n_epoch": 1, "val_check_interval": None}
    return {"check_val_every_n_epoch": None, "val_check_interval": max(1, num_steps // NUM_VALIDATIONS)}


def choose_kind(latents: str | None, labels: Any) -> str:
    """Return the kind of latents of a run with or without a column of labels.

    Raises
    ------
    ConfigError
        If the kind and the labels contradict each other.

    Examples
    --------
    >>> choose_kind(None, None), choose_kind(None, "cell_type")
    ('gaussian', 'labels')
    """
    if latents is None:
        return "gaussian" if labels is None else "labels"
    if latents == "labels" and labels is None:
        raise ConfigError("latents='labels' requires labels, the column of obs with known cell types.")
    if latents != "labels" and labels is not None:
        raise ConfigError(f"labels={labels!r} cannot be combined with latents={latents!r}. Omit latents.")
    return latents


def read_recipe(latents: str) -> dict[str, Any]:
    """Return the packaged configuration of a kind of latents; raise a ConfigError if it is not in :data:`RECIPES`."""
    if not isinstance(latents, str) or latents not in RECIPES:
        raise ConfigError(f"latents={latents!r} is unknown. {did_you_mean(str(latents), RECIPES)}")
    return yaml.safe_load(find_config(RECIPES[latents]).read_text(encoding="utf-8"))


def default_num_steps(num_cells: int) -> int:
    """Return the number of training steps for a number of cells, from 1,000 to 20,000.

    Up to 2,500 cells it is their number: more steps overfit few cells. From there it is 50 times the square root of
    their number, because the ELBO of many cells gains little from further steps.

    Examples
    --------
    >>> default_num_steps(700), default_num_steps(2000), default_num_steps(10_000), default_num_steps(1_000_000)
    (1000, 2000, 5000, 20000)
    """
    num_steps = min(num_cells, round(50 * math.sqrt(num_cells)))
    return min(max(num_steps, MIN_STEPS), MAX_STEPS)


def setting_key(name: str, latents: str | None = None) -> str:
    """Return the key of the configuration that a setting of :func:`fit` means.

    Parameters
    ----------
    name : str
        An argument of the data, the model, one of its latents, or the trainer.
    latents : str or None
        Kind of latents, which determines the class of the model; None means any class.

    Raises
    ------
    ConfigError
        If the setting or the kind of latents does not exist.

    Examples
    --------
    >>> setting_key("layer"), setting_key("accelerator"), setting_key("latent_dim", "gaussian")
    ('data.layer', 'trainer.accelerator', 'model.latent_dim')
    >>> setting_key("latent_dim", "mixed"), setting_key("topics", "topics")
    ('model.latents.z.dim', 'model.latents.topics.topics')
    """
    if name in OTHER_NAMES:
        return OTHER_NAMES[name]
    model = {} if latents is None else read_recipe(latents)["model"]
    path = model.get("class_path", "")
    classes: list[type] = [cls for cls in MODELS if not model or cls.__name__ == path.rpartition(".")[2]]
    sections: dict[str, list[type]] = {"data": [GeneExpressionData], "model": classes, "trainer": [pl.Trainer]}
    valid: dict[str, str] = {}
    for section, owners in sections.items():
        for parameter in (parameter for cls in owners for parameter in inspect.signature(cls).parameters):
            valid.setdefault(parameter, f"{section}.{parameter}")
    for latent, config in model.get("init_args", {}).get("latents", {}).items():
        valid |= {key: f"model.latents.{latent}.{key}" for key in config["init_args"] if key != "parents"}
    if "dim" in valid:
        valid["latent_dim"] = valid.pop("dim")
    valid = {parameter: key for parameter, key in valid.items() if parameter not in NOT_SETTINGS}
    if name not in valid:
        hint = did_you_mean(name, valid)
        kind = "" if latents is None else f" with latents={latents!r}"
        raise ConfigError(f"{name!r} is not a setting of fit{kind}. {hint if hint.startswith('Did') else SETTINGS}")
    return valid[name]


def _set(config: dict[str, Any], key: str, value: Any) -> None:
    """Set a key in a configuration; callbacks are added."""
    *parents, name = key.split(".")
    for parent in parents:
        config = config[parent]
        config = config.get("init_args", config)
    config[name] = [*config[name], *as_list(value)] if name == "callbacks" else value
