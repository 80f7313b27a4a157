"""Complete configuration of a run, saved with the run."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from jsonargparse import ArgumentParser, Namespace
from pytorch_lightning.cli import SaveConfigCallback
from typing_extensions import override

from vaekit._core.atomic import atomic_write
from vaekit._core.private_paths import find_directories, hide_directories
from vaekit._core.urls import hide_credentials
from vaekit._core.version import __version__
from vaekit.callbacks.run_callbacks import as_list

yaml.SafeDumper.add_multi_representer(Enum, lambda dumper, member: dumper.represent_str(str(member.value)))
# jsonargparse reads 1e3 as a number, PyYAML as text: a name of a column that looks like it must be quoted
NUMBER = re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$")
yaml.SafeDumper.add_implicit_resolver("tag:yaml.org,2002:float", NUMBER, list("-+0123456789"))

PER_RUN = {"seed_everything", "ckpt_path", "weights_only"}
TRAINER_PER_RUN = {"default_root_dir", "logger", "enable_progress_bar"}


def to_plain(parser: ArgumentParser, config: Namespace) -> dict[str, Any]:
    """Return a parsed configuration as plain data, with all defaults and without credentials of URLs."""
    return hide_credentials(yaml.safe_load(parser.dump(config, skip_none=False)))


def training_hash(config: Mapping[str, Any]) -> str:
    """Return a hash of a complete configuration without the seed, the start, the output and the figures of a run.

    Examples
    --------
    >>> first = {"seed_everything": 0, "trainer": {"max_epochs": 5, "logger": True}}
    >>> training_hash(first) == training_hash({"seed_everything": 1, "trainer": {"max_epochs": 5, "logger": False}})
    True
    >>> training_hash(first) == training_hash({"seed_everything": 0, "trainer": {"max_epochs": 9, "logger": True}})
    False
    >>> writer = {"class_path": "vaekit.callbacks.FigureWriter"}
    >>> training_hash(first) == training_hash({"trainer": {"max_epochs": 5, "callbacks": [writer]}})
    True
    """
    trainer = {name: value for name, value in config["trainer"].items() if name not in TRAINER_PER_RUN}
    callbacks = as_list(trainer.get("callbacks"))
    trainer["callbacks"] = [each for each in callbacks if not str(each["class_path"]).endswith(".FigureWriter")]
    shared = {name: value for name, value in config.items() if name not in PER_RUN} | {"trainer": trainer}
    return hashlib.sha256(json.dumps(shared, sort_keys=True, default=str).encode()).hexdigest()[:16]


class SaveRunConfig(SaveConfigCallback):
    """Callback that writes the complete configuration to the run directory and to the loggers."""

    @override
    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Log the configuration and the fingerprint of the data, without directories of this machine."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        record = {
            "config": to_plain(self.parser, self.config),
            "data": {
                "source": data.source,
                "fingerprint": data.fingerprint,
                "observations": len(data.dataset),
                "features": data.features,
            },
            "versions": {"vaekit": __version__, "torch": torch.__version__},
        }
        for logger in trainer.loggers:
            logger.log_hyperparams(hide_directories(record, find_directories(record)))

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write ``config.yaml``, but not before: a run that is rejected when it resumes must keep its file."""
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            with atomic_write(Path(trainer.default_root_dir) / self.config_filename) as temporary:
                text = hide_credentials(self.parser.dump(self.config, skip_none=False))
                temporary.write_text(text, encoding="utf-8")
