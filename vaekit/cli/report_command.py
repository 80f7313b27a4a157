"""The command ``vaekit report``, also for Python: ``vaekit.cli.report_command.report(...)``.

The signature and the docstring are the command line (:mod:`vaekit.cli.command_parser`). Slow libraries are imported
inside the functions, so that the help is fast.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from vaekit._core.arguments import check_minimum, check_seed
from vaekit._core.optional_results import warn_of_errors
from vaekit.cli.output_files import check_output, load_model
from vaekit.exceptions import DataError, format_bytes

if TYPE_CHECKING:
    import pytorch_lightning as pl

    from vaekit.data.data_module import DataModule


def report(
    checkpoint: str | Path,
    data: list[str] | None = None,
    *,
    output: str | Path,
    color: list[str] | None = None,
    num_samples: int = 100,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Write a report of a trained model as one HTML file.

    It shows data, training, bounds, latents, codes and checks, without scripts and without the names of directories.
    `vaekit fit` writes report.html into the run directory.

    Parameters
    ----------
    checkpoint : str or Path
        As for every command (:data:`vaekit.cli.common_arguments.DESCRIPTIONS`).
    data : list of str, optional
        The training data, if they were moved. None: their path in training.
    output : str or Path
        .html file to write.
    color : list of str, optional
        As for every command.
    num_samples : int
        Number of importance samples per observation for the log-likelihood.
    seed : int
        As for every command.
    overwrite : bool
        As for every command.

    Examples
    --------
    vaekit report RUN/last.ckpt -o report.html
    """
    from vaekit.analysis import report as write_report
    from vaekit.cli.wandb_files import attach_file

    check_seed(seed)
    check_minimum(1, num_samples=num_samples)
    path, paths = Path(output), [data] if isinstance(data, str) else list(data or ())
    if path.suffix.lower() != ".html" and not path.is_dir():
        raise DataError(f"output={str(path)!r} must end in .html. Name it {path.stem or 'report'}.html")
    check_output(path, (checkpoint, *paths), overwrite)
    load_model(checkpoint, path)  # checks that the output is not a file of the training data
    write_report(checkpoint, path, paths or None, color=color, num_samples=num_samples, progress=True, seed=seed)
    print(f"Wrote {path} ({format_bytes(path.stat().st_size)})")
    if line := attach_file(Path(checkpoint).parent, path, "report"):
        print(line)


def report_run(trainer: pl.Trainer, directory: Path, data: DataModule) -> None:
    """Write the report of a run that has ended into its directory, and print where it is.

    A run without figures does not have a report. The run is complete without it, so that an error is a warning only.

    Parameters
    ----------
    trainer : Trainer
        Trainer of the run.
    directory : Path
        Run directory.
    data : DataModule
        Data of the run.
    """
    from vaekit.analysis import report as write_report
    from vaekit.callbacks import FigureWriter
    from vaekit.callbacks.run_archive import REPORT

    checkpoint, output, start = directory / "last.ckpt", directory / REPORT, time.perf_counter()
    figures = next((each for each in trainer.callbacks if isinstance(each, FigureWriter)), FigureWriter())  # type: ignore[attr-defined]
    if trainer.fast_dev_run or figures.figure == "none" or not checkpoint.is_file():  # type: ignore[attr-defined]
        return
    progress = trainer.progress_bar_callback is not None
    with warn_of_errors("No report was written", f"Try: vaekit report {checkpoint} -o report.html"):
        write_report(checkpoint, output, data, color=figures.color, progress=progress)
        print(f"Wrote {output} in {time.perf_counter() - start:.0f} s")
