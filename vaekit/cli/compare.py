"""``vaekit compare``: one configuration trained with several gradient estimators and seeds, one after another."""

from __future__ import annotations

import csv
import itertools
import json
import logging
import math
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaekit._core.atomic import atomic_write
from vaekit.cli.console import Parser, silence_libraries
from vaekit.cli.estimator_names import estimator_config
from vaekit.cli.image_output import picture_path
from vaekit.cli.run_directory import make_folder
from vaekit.cli.seed import seed
from vaekit.exceptions import ConfigError

if TYPE_CHECKING:
    from vaekit.callbacks.elbo_curve import Point
    from vaekit.cli.instantiate import InstantiateOnlyCLI

WIDTH = 44  # of an estimator's name
Runs = dict[str, list[list["Point"]]]  # for each estimator the curve of each seed


def parser() -> Parser:
    """Return the command's parser."""
    made = Parser(
        "vaekit compare",
        allow_abbrev=False,
        usage="vaekit compare --config X.yaml --estimators A B C [--seeds 0 1 2] [--latent NAME] [-o FOLDER] "
        "[--KEY VALUE ...]",
        description="Train one configuration with several gradient estimators and seeds, one after another on this "
        "machine, and print the validation bound of each with its 95 % confidence interval over the seeds, and the "
        "time of a training step; compare.csv holds the curves, compare.png draws the bound against steps and against "
        "training time. An estimator is a name or a call with named arguments, such as "
        '"ScoreFunction(num_samples=2, baseline=LeaveOneOut())". Any key of the configuration can be set, as for fit.',
    )
    made.add_argument("--config", "-c", action="append", default=[], metavar="X.yaml", help="configuration, as for fit")
    made.add_argument("--estimators", nargs="+", required=True, metavar="A", help="estimators of the latent")
    made.add_argument("--seeds", nargs="+", type=seed, default=[0, 1, 2], metavar="N", help="seeds of a run (0 1 2)")
    made.add_argument("--latent", metavar="NAME", help="the latent; needed where several are discrete")
    made.add_argument("-o", "--output", metavar="FOLDER", help="where to write; default: the run's folder")
    made.add_argument("--json", action="store_true", help="end with the figures as one line of JSON")
    return made


def run(arguments: list[str]) -> None:
    """Run the command."""
    options, rest = parser().parse_known_args(arguments[1:])
    if len(set(options.seeds)) < len(options.seeds) or len(set(options.estimators)) < len(options.estimators):
        raise ConfigError(f"--estimators {options.estimators} and --seeds {options.seeds}: each may be there once")
    estimators = {text: estimator_config(text) for text in options.estimators}
    silence_libraries()
    logging.getLogger("lightning_fabric.utilities.seed").setLevel(logging.WARNING)  # a line a run

    import torch

    torch.set_float32_matmul_precision("high")
    common = [item for path in options.config for item in ("--config", path)] + rest
    if "--trainer.logger" not in {argument.partition("=")[0] for argument in rest}:
        common += ["--trainer.logger", "false"]
    common += ["--trainer.enable_progress_bar", "false"]
    first = _built(common)
    key = estimator_key(first, options.latent)
    folder = Path(options.output or first.folder)
    make_folder(folder, "-o" if options.output else "trainer.default_root_dir")
    picture = picture_path(None, False, folder, "compare")
    choices = {text: [f"--{key}", json.dumps(config)] for text, config in estimators.items()}
    for choice in choices.values():  # what does not fit is told before anything is trained
        _built([*common, *choice])
    print(first.datamodule.description, file=sys.stderr)
    runs = train(common, choices, options.seeds)
    write(runs, options.seeds, picture)
    figures = summary(runs)
    print(table(figures, key, options.seeds))
    print(f"wrote {picture.with_suffix('.csv')}, {picture}")
    if options.json:
        print(json.dumps({"key": key, "seeds": options.seeds, "estimators": figures}))


def _built(arguments: list[str]) -> InstantiateOnlyCLI:
    from vaekit.cli.instantiate import instantiate

    return instantiate(arguments)


def estimator_key(cli: InstantiateOnlyCLI, latent: str | None) -> str:
    """Return the key of the configuration that holds the estimator of the latent.

    Raises
    ------
    ConfigError
        If it is not clear which latent is meant, or there is none of that name.
    """
    latents = cli.model.latents
    if latent is not None and latent not in latents:
        raise ConfigError(f"the model has no latent {latent!r}; it has {', '.join(map(repr, latents))}")
    if "estimator" in cli.config["fit"]["model"]["init_args"]:  # a model with one latent
        return "model.estimator"
    discrete = [name for name, found in latents.items() if found.discrete]
    if latent is None and len(discrete) != 1:
        raise ConfigError(
            f"which latent? {len(discrete)} of {', '.join(map(repr, latents))} are discrete: pass --latent NAME"
        )
    return f"model.latents.{latent or discrete[0]}.estimator"


def train(common: list[str], choices: dict[str, list[str]], seeds: list[int]) -> Runs:
    """Train every estimator with every seed, seeds outermost, and return their curves."""
    from pytorch_lightning.callbacks import Callback
    from tqdm.auto import tqdm

    from vaekit.callbacks import ELBOCurve, FigureWriter, RunCheckpoint
    from vaekit.cli.fit import SaveRunConfig
    from vaekit.cli.foreign import check_wandb_files
    from vaekit.cli.logger import finish_run, name_run
    from vaekit.cli.training_errors import start_loggers

    runs: Runs = {text: [] for text in choices}
    total = len(choices) * len(seeds)
    bar = tqdm(desc="comparing", unit="step", dynamic_ncols=True, mininterval=0.2 if sys.stderr.isatty() else 10)

    class Progress(Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            steps = trainer.estimated_stepping_batches
            bar.total = total * int(steps) if steps < math.inf else None

        def on_train_batch_end(self, *args: Any) -> None:
            bar.update()

    with bar:
        for number, (seed, text) in enumerate(itertools.product(seeds, choices), 1):
            bar.set_postfix_str(f"run {number} of {total}: {text}, seed {seed}", refresh=False)
            cli, curve = _built([*common, *choices[text], "--seed_everything", str(seed)]), ELBOCurve()
            # nothing is written into the run's folder, where an earlier run may be
            kept = [c for c in cli.trainer.callbacks if not isinstance(c, SaveRunConfig | RunCheckpoint | FigureWriter)]  # type: ignore[attr-defined]
            cli.trainer.callbacks = [*kept, curve, Progress()]  # type: ignore[attr-defined]
            name_run(cli.trainer.loggers, f"{cli.run_name} {text} seed {seed}")
            check_wandb_files(cli.trainer.loggers)
            start_loggers(cli.trainer)
            cli.trainer.fit(cli.model, datamodule=cli.datamodule)
            for line in filter(None, map(finish_run, cli.trainer.loggers)):  # finishes the W&B run
                print(line, file=sys.stderr)
            if cli.trainer.interrupted:
                raise KeyboardInterrupt
            runs[text].append(curve.points)
    if not all(points for curves in runs.values() for points in curves):
        raise ConfigError("there was no validation, whose bound is compared: train for one epoch at least")
    return runs


def write(runs: Runs, seeds: list[int], picture: Path) -> None:
    """Write the curves as a table, and draw them."""
    from vaekit.plotting import model_figures

    with atomic_write(picture.with_suffix(".csv")) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["estimator", "seed", "step", "seconds", "elbo"])
        for text, curves in runs.items():
            for seed, points in zip(seeds, curves, strict=True):
                writer.writerows([text, seed, *point] for point in points)
    with atomic_write(picture) as temporary:
        model_figures.elbo_curves(runs).savefig(temporary, dpi=130, format="png")


def summary(runs: Runs) -> list[dict[str, Any]]:
    """Return for each estimator the last bound over seeds, with the half-width of its interval, and its cost."""
    rows = []
    for text, curves in runs.items():
        last = [points[-1] for points in curves]
        values = [point.elbo for point in last]
        rows.append({
            "estimator": text,
            "elbo": statistics.mean(values),
            "interval": half_width(values),
            "steps": last[0].step,
            "step_ms": 1e3 * statistics.mean(point.seconds / point.step for point in last),
            "seconds": statistics.mean(point.seconds for point in last),
            "seeds": values,
        })  # fmt: skip
    return sorted(rows, key=lambda row: -row["elbo"])


def half_width(values: list[float]) -> float | None:
    """Return half of the 95 % confidence interval of a mean by Student's t; None for a single value.

    Examples
    --------
    >>> round(half_width([1.0, 2.0, 3.0]), 3)
    2.484
    """
    if len(values) < 2:
        return None
    from scipy.stats import t

    return float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))


def table(rows: list[dict[str, Any]], key: str, seeds: list[int]) -> str:
    """Return the figures as aligned lines, the best bound first."""
    several = len(seeds) > 1
    head = f"{'estimator':<{WIDTH}}{'ELBO':>10}{'+- 95 %':>9}{'steps':>8}{'ms/step':>9}{'seconds':>9}"
    lines = [f"validation bound in nats after the last epoch, over {len(seeds)} seeds, by {key}", head]
    for row in rows:
        name = row["estimator"] if len(row["estimator"]) < WIDTH else row["estimator"][: WIDTH - 4] + "..."
        interval = f"{row['interval']:.2f}" if several else "-"
        lines.append(f"{name:<{WIDTH}}{row['elbo']:>10.2f}{interval:>9}{row['steps']:>8}{row['step_ms']:>9.2f}"
                     f"{row['seconds']:>9.1f}")  # fmt: skip
    if len(rows) > 1 and several:
        gap = half_width([a - b for a, b in zip(rows[0]["seeds"], rows[1]["seeds"], strict=True)])
        lines.append(f"the first is ahead of the second by {rows[0]['elbo'] - rows[1]['elbo']:.2f} +- {gap:.2f}, "
                     "seed by seed")  # fmt: skip
    return "\n".join(lines)
