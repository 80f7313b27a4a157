"""Recipes: packaged configurations by kind of latents, completed for the number of cells and genes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from vaekit._core.arguments import as_integer
from vaekit._core.config_store import find_config
from vaekit.data.cells.sources import open_counts
from vaekit.exceptions import ConfigError, did_you_mean

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
LABELS_KEY = "model.latents.y.observed_key"


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
