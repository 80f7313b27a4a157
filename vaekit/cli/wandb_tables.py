"""Tables of a trained model in Weights & Biases: its codes and their marker genes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from vaekit.analysis.markers import code_markers
from vaekit.cli.logger import wandb_loggers
from vaekit.diagnostics import code_table, posterior_summaries
from vaekit.exceptions import DataError

if TYPE_CHECKING:
    import pandas as pd

MAX_ROWS = 10_000  # a browser shows no more of a W&B table
NUM_MARKERS = 10  # genes per code


def log_tables(loggers: Iterable[Any], model: Any, data: Any) -> None:
    """Log the tables ``codes/<latent>`` and ``markers/<latent>`` of each latent with codes or topics.

    They contain sums over cells, the names of labels, and gene names, but nothing about single cells.

    Parameters
    ----------
    loggers : iterable of Logger
        Loggers of the run; those that are not of Weights & Biases are ignored.
    model : VAE
        Trained model.
    data : DataModule
        Its data.
    """
    chosen = wandb_loggers(loggers)
    names = [name for name, latent in model.latents.items() if latent.state_shape]
    if not chosen or not names:
        return
    for key, table in result_tables(model, data, names).items():
        for logger in chosen:
            logger.log_table(key, dataframe=table.head(MAX_ROWS))


def result_tables(model: Any, data: Any, names: list[str]) -> dict[str, pd.DataFrame]:
    """Return the tables of some latents by key, without markers if the model does not have a composition."""
    import pandas as pd

    labels = pd.Categorical(data.labels, data.label_categories) if data.label_categories else None
    summaries = posterior_summaries(model, data.dataloader("all", batch_size=1024))
    tables = {f"codes/{name}": code_table(model, summaries, name, labels) for name in names}
    if not model.networks.likelihood.has_composition or data.kind != "counts":
        return tables
    for name in names:
        with contextlib.suppress(DataError):  # a single code is in use
            tables[f"markers/{name}"] = code_markers(model, name, summaries[name], data.dataset, NUM_MARKERS)
    return tables
