"""``vaekit compare``: one configuration, trained with several gradient estimators and seeds."""

from __future__ import annotations

import ast
import csv
import itertools
import json
import logging
import math
import secrets
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaekit._core.arguments import check_seed
from vaekit._core.atomic import atomic_write
from vaekit.callbacks.run_archive import make_directory
from vaekit.cli.console import Parser, silence_libraries
from vaekit.cli.output_files import figure_path
from vaekit.exceptions import ConfigError

if TYPE_CHECKING:
    from vaekit.callbacks.elbo_curve import Point
    from vaekit.cli.instantiate import InstantiateOnlyCLI
from vaekit.cli.intervals import half_width

WIDTH = 44  # of an estimator's name
Runs = dict[str, list[list["Point"]]]  # one curve per seed, by estimator


def command_parser() -> Parser:
    """Return the command's parser."""
    parser = Parser(
        "vaekit compare",
        usage="vaekit compare --config NAME --estimators A B ... [FLAGS] [--KEY VALUE ...]",
        description="Train one configuration with several gradient estimators and seeds.",
        example="vaekit compare --config digits_discrete --estimators ReinMax GumbelSoftmax --seeds 0 1 2",
        details="Prints the validation ELBO of each estimator with its 95 % confidence interval over the seeds, and "
        "the time per training step. compare.csv contains the curves; compare.png shows the ELBO by steps and by "
        'training time. An estimator is a name or a call with named arguments, such as "ScoreFunction(num_samples=2, '
        'baseline=LeaveOneOut())". Any key of the configuration is also a flag, as for fit. '
        "--trainer.logger WandbLogger logs a group of runs, and one more run with the table and the figure.",
    )
    parser.add_argument("--config", "-c", action="append", default=[], metavar="NAME", help="configuration, as for fit")
    parser.add_argument("--estimators", nargs="+", required=True, metavar="A", help="estimators of the latent")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N", help="seeds of a run (0 1 2)")
    parser.add_argument("--latent", metavar="NAME", help="the latent, if several are discrete")
    parser.add_argument("-o", "--output", metavar="DIRECTORY", help="where to write (the run directory)")
    parser.add_argument("--json", action="store_true", help="print the results as one line of JSON, too")
    return parser


def run(arguments: list[str]) -> None:
    """Run the command."""
    options, flags = command_parser().parse_known_args(arguments[1:])
    for seed in options.seeds:
        check_seed(seed, "seeds")
    if len(set(options.seeds)) < len(options.seeds) or len(set(options.estimators)) < len(options.estimators):
        raise ConfigError(f"estimators={options.estimators}, seeds={options.seeds}: name each only once.")
    configs = {text: estimator_config(text) for text in options.estimators}
    silence_libraries()
    logging.getLogger("lightning_fabric.utilities.seed").setLevel(logging.WARNING)  # one line per run

    import torch

    from vaekit.cli.instantiate import instantiate

    torch.set_float32_matmul_precision("high")
    common = [word for path in options.config for word in ("--config", path)]
    common += ["--trainer.logger", "false", *flags, "--trainer.enable_progress_bar", "false"]
    cli = instantiate(common)
    key = estimator_key(cli, options.latent)
    directory = Path(options.output or cli.directory)
    make_directory(directory, "output" if options.output else "trainer.default_root_dir")
    figure = figure_path(None, False, directory, "compare")
    choices = {text: [f"--{key}", json.dumps(config)] for text, config in configs.items()}
    for choice in choices.values():  # an error must come before the first run
        instantiate([*common, *choice])
    print(cli.datamodule.description, file=sys.stderr)
    group = f"{cli.run_name} compare {secrets.token_hex(2)}"
    runs = train(common, choices, options.seeds, group)
    write(runs, options.seeds, figure)
    rows = summary(runs)
    print(table(rows, key, options.seeds))
    print(f"Wrote {figure.with_suffix('.csv')} and {figure}")
    log(cli, group, rows, figure)
    if options.json:
        print(json.dumps({"key": key, "seeds": options.seeds, "estimators": rows}))


def estimator_config(text: str) -> dict[str, Any]:
    """Return the configuration of an estimator from its name or a call with named arguments; without evaluating it.

    Raises
    ------
    ConfigError
        If it is neither, or an argument is neither a plain value nor such a call.

    Examples
    --------
    >>> estimator_config("ReinMax")
    {'class_path': 'ReinMax'}
    >>> estimator_config("ScoreFunction(num_samples=2, baseline=LeaveOneOut())")["init_args"]
    {'num_samples': 2, 'baseline': {'class_path': 'LeaveOneOut'}}
    """
    try:
        config = _to_config(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError):
        config = None
    if not (isinstance(config, dict) and "class_path" in config):
        raise ConfigError(
            f"estimators={text!r} is not an estimator. Pass a name, such as ReinMax, or a call with named arguments, "
            'such as "ScoreFunction(num_samples=2, baseline=LeaveOneOut())".'
        )
    return config


def _to_config(node: ast.expr) -> Any:
    if isinstance(node, ast.Name):
        return {"class_path": node.id}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
        arguments = {keyword.arg: _to_config(keyword.value) for keyword in node.keywords}
        if None in arguments:  # **mapping
            raise ValueError
        return {"class_path": node.func.id, **({"init_args": arguments} if arguments else {})}
    return ast.literal_eval(node)


def estimator_key(cli: InstantiateOnlyCLI, latent: str | None) -> str:
    """Return the configuration key of the latent's estimator.

    Raises
    ------
    ConfigError
        If the latent does not exist, or None is ambiguous.
    """
    latents = cli.model.latents
    names = ", ".join(map(repr, latents))
    if latent is not None and latent not in latents:
        raise ConfigError(f"latent={latent!r} not found among the latents {names}.")
    if "estimator" in cli.config["fit"]["model"]["init_args"]:  # a model with one latent
        return "model.estimator"
    discrete = [name for name, candidate in latents.items() if candidate.discrete]
    if latent is None and len(discrete) != 1:
        raise ConfigError(f"{len(discrete)} of the latents {names} are discrete. Choose one with --latent NAME")
    return f"model.latents.{latent or discrete[0]}.estimator"


def train(common: list[str], choices: dict[str, list[str]], seeds: list[int], group: str) -> Runs:
    """Train each estimator with each seed, seeds outermost, and return the curves.

    The runs are one group in Weights & Biases.
    """
    from pytorch_lightning.callbacks import Callback
    from tqdm.auto import tqdm

    from vaekit.callbacks import ELBOCurve, FigureWriter, RunCheckpoint
    from vaekit.cli.foreign import check_wandb_files
    from vaekit.cli.instantiate import instantiate
    from vaekit.cli.logger import group_runs, marked_run, name_run
    from vaekit.cli.logger_start import start_loggers
    from vaekit.cli.saved_config import SaveRunConfig

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
            cli, curve = instantiate([*common, *choices[text], "--seed_everything", str(seed)]), ELBOCurve()
            trainer: Any = cli.trainer
            # the run directory may contain an earlier run: write nothing there
            kept = [c for c in trainer.callbacks if not isinstance(c, SaveRunConfig | RunCheckpoint | FigureWriter)]
            trainer.callbacks = [*kept, curve, Progress()]
            name_run(trainer.loggers, f"{cli.run_name} {text} seed {seed}")
            group_runs(trainer.loggers, group, "train")
            check_wandb_files(trainer.loggers)
            start_loggers(trainer)
            with marked_run(trainer.loggers):
                trainer.fit(cli.model, datamodule=cli.datamodule)
            if trainer.interrupted:
                raise KeyboardInterrupt
            runs[text].append(curve.points)
    if not all(points for curves in runs.values() for points in curves):
        raise ConfigError("no validation took place, so there is no ELBO to compare. Train for at least one epoch.")
    return runs


def write(runs: Runs, seeds: list[int], figure: Path) -> None:
    """Write the curves as a table and as a figure."""
    from vaekit.plotting import model_figures, save_figure

    with (
        atomic_write(figure.with_suffix(".csv")) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["estimator", "seed", "step", "seconds", "elbo"])
        for text, curves in runs.items():
            for seed, points in zip(seeds, curves, strict=True):
                writer.writerows([text, seed, *point] for point in points)
    save_figure(model_figures.elbo_curves(runs), figure)


def log(cli: InstantiateOnlyCLI, group: str, rows: list[dict[str, Any]], figure: Path) -> None:
    """Log the summary, the curves and the figure as one more Weights & Biases run of the group."""
    import pandas as pd

    from vaekit.cli.logger import finish_run, group_runs, name_run, wandb_loggers
    from vaekit.cli.logger_start import start_loggers

    loggers = wandb_loggers(cli.trainer.loggers)
    if not loggers:
        return
    cli.trainer.loggers = loggers
    name_run(loggers, group)
    group_runs(loggers, group, "compare")
    start_loggers(cli.trainer)
    for logger in loggers:
        logger.log_table("compare/summary", dataframe=pd.DataFrame(rows).drop(columns="seeds"))
        logger.log_table("compare/curves", dataframe=pd.read_csv(figure.with_suffix(".csv")))
        logger.log_image("compare/figure", images=[str(figure)])
        print(finish_run(logger))


def summary(runs: Runs) -> list[dict[str, Any]]:
    """Return the last ELBO of each estimator, its interval over seeds, and its cost; the best first."""
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


def table(rows: list[dict[str, Any]], key: str, seeds: list[int]) -> str:
    """Return the results as aligned lines."""
    several = len(seeds) > 1
    head = f"{'estimator':<{WIDTH}}{'ELBO':>10}{'+- 95 %':>9}{'steps':>8}{'ms/step':>9}{'seconds':>9}"
    lines = [f"validation ELBO in nats after the last epoch, over {len(seeds)} seeds, by {key}", head]
    for row in rows:
        name = row["estimator"] if len(row["estimator"]) < WIDTH else row["estimator"][: WIDTH - 4] + "..."
        interval = f"{row['interval']:.2f}" if several else "-"
        lines.append(f"{name:<{WIDTH}}{row['elbo']:>10.2f}{interval:>9}{row['steps']:>8}{row['step_ms']:>9.2f}"
                     f"{row['seconds']:>9.1f}")  # fmt: skip
    if len(rows) > 1 and several:
        gap = half_width([a - b for a, b in zip(rows[0]["seeds"], rows[1]["seeds"], strict=True)])
        lines.append(f"the first exceeds the second by {rows[0]['elbo'] - rows[1]['elbo']:.2f} +- {gap:.2f}, paired by "
                     "seed")  # fmt: skip
    return "\n".join(lines)
