"""``vaekit gradients``: every gradient estimator that fits a model's latents, measured on the model's own batch."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaekit._core.atomic import atomic_write, try_writing
from vaekit.cli.console import Parser, silence_libraries
from vaekit.cli.run_directory import make_folder
from vaekit.cli.seed import seed
from vaekit.exceptions import DataError

if TYPE_CHECKING:
    import pandas as pd

WIDTH = 34  # of an estimator's name


def parser() -> Parser:
    """Return the command's parser."""
    made = Parser(
        "vaekit gradients",
        allow_abbrev=False,
        usage="vaekit gradients --config X.yaml [--ckpt_path C] [--num_estimates N] [--batch_size B] "
        "[-o FOLDER] [--KEY VALUE ...]",
        description="Measure bias, variance and time of every gradient estimator that fits each latent of a model, on "
        "a batch of its training data: the gradient of the training loss through that latent's posterior, with respect "
        "to its head and the encoder, at the KL weight after the warm-up and without dropout; the other latents keep "
        "their estimators. Model and data are made as by vaekit fit, and any key of its configuration can be set.",
    )
    made.add_argument("--config", "-c", action="append", default=[], metavar="X.yaml", help="configuration, as for fit")
    made.add_argument("--ckpt_path", metavar="C", help="weights of a trained model; alone, its configuration too")
    made.add_argument("--num_estimates", type=int, default=400, metavar="N", help="estimates with each estimator (400)")
    made.add_argument("--batch_size", type=int, metavar="B", help="observations in the batch; default: as in training")
    made.add_argument(
        "--max_seconds", type=float, default=20.0, metavar="S", help="time for each estimator of a latent, with trials "
        "and timing (20): fewer draws are made, and one of which not even 8 fit is refused; the reference may take "
        "4 S; a single gradient is not interrupted",
    )  # fmt: skip
    made.add_argument("--latent", action="append", metavar="NAME", help="measure this latent only; may be repeated")
    made.add_argument("--seed", type=seed, default=0, help="seed of the num_estimates (0)")
    made.add_argument(
        "-o", "--output", metavar="FOLDER", help="where to write; default: the checkpoint's folder, else the run's"
    )
    return made


def run(arguments: list[str]) -> None:
    """Run the command."""
    options, rest = parser().parse_known_args(arguments[1:])
    if (
        options.num_estimates < 8
        or (options.batch_size is not None and options.batch_size < 1)
        or not options.max_seconds > 0
    ):
        raise DataError(
            f"--num_estimates is {options.num_estimates} (8 at least), --batch_size {options.batch_size} (1 at least), "
            f"--max_seconds {options.max_seconds} (positive)"
        )
    silence_libraries()

    import pandas as pd
    import torch

    from vaekit.cli.instantiate import instantiate
    from vaekit.cli.logger import finish_run
    from vaekit.diagnostics import model_gradient_report
    from vaekit.plotting import plot_gradient_report

    cli = instantiate([item for path in options.config for item in ("--config", path)] + rest, options.ckpt_path)
    model, data = cli.model, cli.datamodule
    names = options.latent or list(model.latents)
    if unknown := [name for name in names if name not in model.latents]:
        raise DataError(f"the model has no latent {unknown[0]!r}; it has {', '.join(map(repr, model.latents))}")
    folder = Path(options.output or (Path(options.ckpt_path).parent if options.ckpt_path else cli.folder))
    make_folder(folder, "-o" if options.output or options.ckpt_path else "trainer.default_root_dir")
    stem = free_stem(folder, names)
    try_writing(folder / f"{stem}.csv")
    torch.manual_seed(options.seed)
    batch = next(iter(data.dataloader("train", options.batch_size, shuffle=True)))
    print(data.description, file=sys.stderr)
    reports = []
    for name in names:
        report, left_out = model_gradient_report(
            model, batch, name, options.num_estimates, max_seconds=options.max_seconds, seed=options.seed,
            progress=cli.config["fit"].trainer.enable_progress_bar is not False,
        )  # fmt: skip
        own = type(model.latents[name].estimator).__name__
        weights = f"weights of {options.ckpt_path}" if options.ckpt_path else "untrained weights"
        title = f"latent {name} ({type(model.latents[name]).__name__}, {own} in the model), {weights}"
        print(f"\n{title}, batch of {len(batch.x)}\n{table(report)}\n{closing(report)}")
        for label, why in left_out.items():
            print(textwrap.shorten(f"left out: {label}: {why}", 160, placeholder="..."))
        figure = plot_gradient_report(report, title)
        with atomic_write(folder / f"{stem}_{name}.png") as temporary:
            figure.savefig(temporary, dpi=130, format="png")
        report.insert(0, "latent", name)
        reports.append(report)
        with atomic_write(folder / f"{stem}.csv") as temporary:  # now: the next latent may fail
            pd.concat(reports).to_csv(temporary, index=False)
        log(cli.trainer.loggers, name, report, folder / f"{stem}_{name}.png")
    print(f"\nwrote {folder}: {stem}.csv, {', '.join(f'{stem}_{name}.png' for name in names)}")
    for line in filter(None, map(finish_run, cli.trainer.loggers)):
        print(line)


def free_stem(folder: Path, names: list[str]) -> str:
    """Return a name for the files that none has yet: ``gradients``, else ``gradients-2`` and so on."""
    number, stem = 1, "gradients"
    while any((folder / file).exists() for file in (f"{stem}.csv", *(f"{stem}_{name}.png" for name in names))):
        number += 1
        stem = f"gradients-{number}"
    return stem


def log(loggers: list[Any], name: str, report: pd.DataFrame, picture: Path) -> None:
    """Give table and picture to Weights & Biases, if that is the run's logger."""
    from pytorch_lightning.loggers import WandbLogger

    for logger in loggers:
        if isinstance(logger, WandbLogger):
            plain = report.astype({"evaluations": float, "num_estimates": float})
            logger.log_table(f"gradients/{name}/table", dataframe=plain)
            logger.log_image(f"gradients/{name}/figure", images=[str(picture)])


def table(report: pd.DataFrame) -> str:
    """Return a report as aligned lines of at most 100 columns; biased estimators have a star."""
    heads = ("bias", "z", "std", "cosine", "evals", "ms", "var x ms", "mse x ms")
    lines = [f"{'estimator (* biased)':<{WIDTH}}" + "".join(f" {h:>{w}}" for h, w in zip(heads, _WIDTHS, strict=True))]
    for row in report.itertuples():
        name = str(row.estimator)[: WIDTH - 2] + ("" if row.unbiased else " *")
        if row.error:
            lines.append(f"{name:<{WIDTH}} {textwrap.shorten(f'refused: {row.error}', 99 - WIDTH, placeholder='...')}")
            continue
        cells = (_short(row.relative_bias), _number(row.z, ".1f"), _short(row.relative_std), _number(row.cosine, ".3f"),
                 str(row.evaluations), _number(row.milliseconds, ".2f"), _short(row.variance_x_time),
                 _short(row.mse_x_time))  # fmt: skip
        lines.append(f"{name:<{WIDTH}}" + "".join(f" {c:>{w}}" for c, w in zip(cells, _WIDTHS, strict=True)))
    return "\n".join(lines)


_WIDTHS = (8, 7, 8, 6, 5, 7, 8, 8)


def _number(value: float, form: str) -> str:
    return "-" if value != value else format(value, form)


def _short(value: float) -> str:
    """Return three significant digits in at most eight characters."""
    if value != value or value == 0:
        return "-" if value != value else "0"
    return f"{value:.3g}" if 1e-3 <= abs(value) < 1e5 else f"{value:.1e}"


def closing(report: pd.DataFrame) -> str:
    """Return the lines below the table: how to read it, and which estimators are best."""
    num_estimates = sorted({int(n) for n in report.num_estimates.dropna()})
    if not num_estimates:
        return "no estimator could be measured"
    many = f"{num_estimates[0]}" if len(num_estimates) == 1 else f"{num_estimates[0]} to {num_estimates[-1]}"
    lines = [
        f"{many} estimates each; bias and std (of one estimate) are over the norm of the exact gradient; reference: "
        + report.attrs["reference"]
    ]
    if report.z.notna().any():
        lines.append("the bias includes its noise, z tells: above 4 by chance in 1 of 10,000 estimators, or fewer")
    lines.append(f"best unbiased, by variance x time: {report.attrs['best_unbiased'] or 'none'}")
    lines.append(f"best of all, by mean squared error x time: {report.attrs['best'] or 'unknown without a reference'}")
    return "\n".join(textwrap.fill(line, 100) for line in lines)
