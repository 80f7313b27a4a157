"""Complete configuration of a run, saved with the run."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

import pytorch_lightning as pl
import yaml
from pytorch_lightning.cli import SaveConfigCallback
from typing_extensions import override

from vaekit._core.atomic import atomic_write

yaml.SafeDumper.add_multi_representer(Enum, lambda dumper, member: dumper.represent_str(str(member.value)))


class SaveRunConfig(SaveConfigCallback):
    """Callback that writes the complete configuration to the run directory and to the loggers."""

    @override
    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Log the configuration and the fingerprint of the data."""
        text = self.parser.dump(self.config, skip_none=False)
        data = trainer.datamodule  # type: ignore[attr-defined]
        for logger in trainer.loggers:
            logger.log_hyperparams(
                {"config": yaml.safe_load(text), "data": {"source": data.source, "fingerprint": data.fingerprint}}
            )

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write ``config.yaml``, but not before: a run that is rejected when it resumes must keep its file."""
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            with atomic_write(Path(trainer.default_root_dir) / self.config_filename) as temporary:
                temporary.write_text(self.parser.dump(self.config, skip_none=False))
