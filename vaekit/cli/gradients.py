"""``vaekit gradients``: each gradient estimator that supports a model's latents, measured on the model's own batch."""

from __future__ import annotations

import itertools
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaekit._core.arguments import check_minimum, check_seed
from vaekit._core.atomic import atomic_write, try_writing
from vaekit.callbacks.run_archive import make_directory
from vaekit.cli.console import Parser, silence_libraries
from vaekit.exceptions import DataError

if TYPE_CHECKING:
    import pandas as pd

WIDTH = 34  # of an estimator's name
COLUMNS = {"bias": 8, "z": 7, "std": 8, "cosine": 6, "evals": 5, "ms": 7, "var x ms": 8, "mse x ms": 8}  # widths


def command_parser() -> Parser:
    """Return the command's parser."""
    parser = Parser(
        "vaekit gradients",
        usage="vaekit gradients [--config NAME] [--ckpt_path FILE.ckpt] [FLAGS] [--KEY VALUE ...]",
        description="Measure the bias, variance and time of each gradient estimator that supports a model's latents.",
        example="vaekit gradients --config pbmc_mixed --ckpt_path RUN/last.ckpt",
        details="Gradients of the training loss are computed on a mini-batch of the training data, through the "
        "posterior of the latent, with respect to its head and the encoder, with the KL weight after the warm-up, "
        "without dropout. The other latents keep their estimators. Any key of the configuration is also a flag, as "
        "for fit.",
    )
    parser.add_argument("--config", "-c", action="append", default=[], metavar="NAME", help="configuration, as for fit")
    parser.add_argument("--ckpt_path", metavar="FILE", help="trained weights; without --config, its configuration, too")
    parser.add_argument("--num_estimates", type=int, default=400, metavar="N", help="estimates per estimator (400)")
    parser.add_argument("--batch_size", type=int, metavar="B", help="observations in the mini-batch (as in training)")
    parser.add_argument(
        "--max_seconds", type=float, default=20.0, metavar="S", help="time per estimator and latent (20): fewer "
        "estimates are made, and an error is reported if fewer than 8 fit. The reference may take 4 S. A single "
        "gradient is not interrupted.",
    )  # fmt: skip
    parser.add_argument("--latent", action="append", metavar="NAME", help="measure this latent only; may be repeated")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the estimates (0)")
    parser.add_argument(
        "-o", "--output", metavar="DIRECTORY", help="where to write (the checkpoint's directory, or the run directory)"
    )
    return parser


def run(arguments: list[str]) -> None:
    """Run the command."""
    options, flags = command_parser().parse_known_args(arguments[1:])
    check_seed(options.seed)
    check_minimum(8, num_estimates=options.num_estimates)
    check_minimum(1, batch_size=options.batch_size)
    if not options.max_seconds > 0:
        raise DataError(f"max_seconds={options.max_seconds} must be positive.")
    silence_libraries()

    import pandas as pd
    import torch

    from vaekit.cli.instantiate import instantiate
    from vaekit.cli.logger import finish_run
    from vaekit.diagnostics import model_gradient_report
    from vaekit.plotting import plot_gradient_report, save_figure

    checkpoint = options.ckpt_path
    cli = instantiate([word for path in options.config for word in ("--config", path)] + flags, checkpoint)
    model, data = cli.model, cli.datamodule
    names = options.latent or list(model.latents)
    if unknown := [name for name in names if name not in model.latents]:
        raise DataError(f"latent={unknown[0]!r} not found among the latents {', '.join(map(repr, model.latents))}.")
    directory = Path(options.output or (Path(checkpoint).parent if checkpoint else cli.directory))
    make_directory(directory, "output" if options.output or checkpoint else "trainer.default_root_dir")
    stem = free_stem(directory, names)
    try_writing(directory / f"{stem}.csv")
    torch.manual_seed(options.seed)
    batch = next(iter(data.dataloader("train", options.batch_size, shuffle=True)))
    print(data.description, file=sys.stderr)
    reports = []
    for name in names:
        report, omitted = model_gradient_report(
            model, batch, name, options.num_estimates, max_seconds=options.max_seconds, seed=options.seed,
            progress=cli.config["fit"].trainer.enable_progress_bar is not False,
        )  # fmt: skip
        estimator = type(model.latents[name].estimator).__name__
        weights = f"weights of {checkpoint}" if checkpoint else "untrained weights"
        title = f"latent {name} ({type(model.latents[name]).__name__}, {estimator} in the model), {weights}"
        print(f"\n{title}, batch of {len(batch.x)}\n{table(report)}\n{closing(report)}")
        for label, reason in omitted.items():
            print(textwrap.shorten(f"omitted: {label}: {reason}", 160, placeholder="..."))
        figure = directory / f"{stem}_{name}.png"
        save_figure(plot_gradient_report(report, title), figure)
        report.insert(0, "latent", name)
        reports.append(report)
        with atomic_write(directory / f"{stem}.csv") as temporary:  # after each latent: the next one may fail
            pd.concat(reports).to_csv(temporary, index=False)
        log(cli.trainer.loggers, name, report, figure)
    print(f"\nWrote {directory}: {stem}.csv, {', '.join(f'{stem}_{name}.png' for name in names)}")
    for line in filter(None, map(finish_run, cli.trainer.loggers)):
        print(line)


def free_stem(directory: Path, names: list[str]) -> str:
    """Return a name that none of the files has yet: ``gradients``, else ``gradients-2`` and so on."""
    for number in itertools.count(1):
        stem = "gradients" if number == 1 else f"gradients-{number}"
        files = (f"{stem}.csv", *(f"{stem}_{name}.png" for name in names))
        if not any((directory / file).exists() for file in files):
            break
    return stem


def log(loggers: list[Any], name: str, report: pd.DataFrame, figure: Path) -> None:
    """Log table and figure to Weights & Biases, if that is the run's logger."""
    from pytorch_lightning.loggers import WandbLogger

    for logger in loggers:
        if isinstance(logger, WandbLogger):
            plain = report.astype({"evaluations": float, "num_estimates": float})
            logger.log_table(f"gradients/{name}/table", dataframe=plain)
            logger.log_image(f"gradients/{name}/figure", images=[str(figure)])


def table(report: pd.DataFrame) -> str:
    """Return a report as aligned lines of at most 100 columns; biased estimators have a star."""
    lines = [f"{'estimator (* biased)':<{WIDTH}}" + "".join(f" {name:>{width}}" for name, width in COLUMNS.items())]
    for row in report.itertuples():
        name = str(row.estimator)[: WIDTH - 2] + ("" if row.unbiased else " *")
        if row.error:
            lines.append(f"{name:<{WIDTH}} {textwrap.shorten(f'error: {row.error}', 99 - WIDTH, placeholder='...')}")
            continue
        cells = (_short(row.relative_bias), _number(row.z, ".1f"), _short(row.relative_std), _number(row.cosine, ".3f"),
                 str(row.evaluations), _number(row.milliseconds, ".2f"), _short(row.variance_x_time),
                 _short(row.mse_x_time))  # fmt: skip
        aligned = (f" {cell:>{width}}" for cell, width in zip(cells, COLUMNS.values(), strict=True))
        lines.append(f"{name:<{WIDTH}}" + "".join(aligned))
    return "\n".join(lines)


def _number(value: float, form: str) -> str:
    return "-" if value != value else format(value, form)


def _short(value: float) -> str:
    """Return three significant digits in at most eight characters."""
    if value != value or value == 0:
        return "-" if value != value else "0"
    return f"{value:.3g}" if 1e-3 <= abs(value) < 1e5 else f"{value:.1e}"


def closing(report: pd.DataFrame) -> str:
    """Return the lines below the table: its units, and the best estimators."""
    counts = sorted({int(n) for n in report.num_estimates.dropna()})
    if not counts:
        return "no estimator could be measured"
    count = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    lines = [
        f"{count} estimates each; bias and std (of one estimate) are relative to the norm of the exact gradient; "
        f"reference: {report.attrs['reference']}"
    ]
    if report.z.notna().any():
        lines.append("the bias includes noise: z exceeds 4 by chance in at most 1 of 10,000 estimators")
    lines.append(f"best unbiased, by variance x time: {report.attrs['best_unbiased'] or 'none'}")
    lines.append(f"best of all, by mean squared error x time: {report.attrs['best'] or 'unknown without a reference'}")
    return "\n".join(textwrap.fill(line, 100) for line in lines)
