"""Training of a configuration by the command line, as a user runs it, for the benchmarks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CONFIGS = Path(__file__).parents[2] / "configs"


def fit(config: Path, directory: Path, seed: int, *flags: str, epochs: int | None = None) -> Path:
    """Run ``vaekit fit`` in a directory and return the checkpoint; the output of the command goes to stderr.

    Parameters
    ----------
    config : Path
        YAML file.
    directory : Path
        Run directory.
    seed : int
        Seed of the split and of training.
    *flags : str
        Further flags of ``vaekit fit``.
    epochs : int or None
        Number of epochs; None means the configuration's own length.
    """
    command = [sys.executable, "-m", "vaekit.cli.main", "fit", "--config", str(config)]
    command += ["--data.seed", str(seed), "--seed_everything", str(seed)]
    command += ["--trainer.default_root_dir", str(directory), "--trainer.logger", "CSVLogger", *flags]
    if epochs is not None:
        command += ["--trainer.max_epochs", str(epochs), "--trainer.max_steps", "-1"]
    subprocess.run(command, check=True, stdout=sys.stderr)
    return directory / "last.ckpt"
