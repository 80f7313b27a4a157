"""Published tables of discrete VAEs on MNIST, run again: minus the evidence lower bound in nats, lower is better.

jang      one stochastic layer, 200 bits or 20 x 10 categories, learned prior (Jang, Gu and Poole 2017, table 1); test
linear    one or two linear layers of 200 bits, batches of 24 (Grathwohl et al. 2018, table 1); best training bound
iwae      784-200-200-(50 Gaussian), dynamic binarization; minus the test log-likelihood (Burda et al. 2016, table 1)
reinmax   784-512-256-(4 x 8), gray pixels, 160 epochs (Liu et al. 2023; ReinMax-CV's paper); training bound

Ours stands next to the published end value, after as many steps as were requested, so that it is the order of the
estimators that can be compared. A relaxed bound is never shown: values are discrete in what is evaluated. What the
papers leave open is in published_models.py and published_reinmax.py. What else differs from the papers: schedules (the
temperature of Gumbel-Softmax, IWAE's learning rate) are compressed to the steps or epochs requested; "train" of jang
and linear is the bound at the end on the first training images, as many as there are test images, where RELAX's table
has the best of the whole training; DARN and the annealed straight-through estimator of Jang's table, and ReinMax-CV,
are not run.

`--data` is a directory with MNIST/raw/*-ubyte.gz and BinarizedMNIST/binarized_mnist.npz; without it all runs on
scikit-learn's digits, whose figures mean nothing. A line with the results of each run goes to stderr as it ends. The
last line of stdout is one JSON object with the same figures.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from published_iwae import OBJECTIVES
from published_iwae import PUBLISHED as IWAE_PUBLISHED
from published_iwae import run as run_iwae
from published_models import JANG, LINEAR, Maker, OneLayer, Split, TwoLinearLayers, chosen_rate, run
from published_reinmax import BATCH as REINMAX_BATCH
from published_reinmax import EPOCHS
from published_reinmax import ESTIMATORS as REINMAX
from published_reinmax import PUBLISHED as REINMAX_PUBLISHED
from published_reinmax import run as run_reinmax

RATES = [1e-4, 3e-4, 1e-3, 3e-3]
SECONDS = ("test_seconds", "test_processor_seconds")  # of a test log-likelihood

# published end values: Jang's table 1 (test) and RELAX's table 1 (training); signs turned to minus the bound
BITS = {"score function": 112.2, "MuProp": 109.7, "straight-through": 116.0, "Gumbel-Softmax": 105.0,
        "ST Gumbel-Softmax": 111.5}  # fmt: skip
CATEGORIES = {"score function": 110.6, "MuProp": 107.0, "straight-through": 110.9, "Gumbel-Softmax": 101.5,
              "ST Gumbel-Softmax": 107.8}  # fmt: skip
ONE = {"Concrete": 111.3, "NVIL": 112.5, "MuProp": 111.7, "REBAR": 111.6, "RELAX": 111.20}
TWO = {"Concrete": 99.62, "NVIL": 99.6, "MuProp": 99.07, "REBAR": 98.22, "RELAX": 98.00}

# table -> (title, model from the mean image, nodes, makers, published, batch, which bound)
Table = tuple[
    str, Callable[[torch.Tensor], torch.nn.Module], tuple[str, ...], dict[str, Maker], dict[str, float], int, str
]
TABLES: dict[str, Table] = {
    "jang-bits": ("Jang, 200 bits", lambda mean: OneLayer(mean, False, False), ("z",), JANG, BITS, 100, "test"),
    "jang-categories": (
        "Jang, 20 x 10",
        lambda mean: OneLayer(mean, True, False),
        ("z",),
        JANG,
        CATEGORIES,
        100,
        "test",
    ),
    "linear-1": ("one linear layer", lambda mean: OneLayer(mean, False, True), ("z",), LINEAR, ONE, 24, "train"),
    "linear-2": ("two linear layers", TwoLinearLayers, ("h1", "h2"), LINEAR, TWO, 24, "train"),
}
# orders that the papers report, better first: within which the signs of the differences are reported
ORDERS = [
    ("leave-one-out, 2", "score function"), ("DisARM", "leave-one-out, 2"), ("REBAR", "leave-one-out, 2"),
    ("REBAR", "NVIL"), ("RELAX", "REBAR"), ("Gumbel-Softmax", "leave-one-out, 2"), ("Concrete", "NVIL"),
    ("MuProp", "NVIL"), ("MuProp", "straight-through"), ("MuProp", "score function"), ("IWAE, 5", "VAE"),
]  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run the tables and print them."""
    options = read_arguments(arguments)
    torch.set_num_threads(options.threads)
    found: dict[str, Any] = {}
    for name in options.tables:
        lines = {"reinmax": reinmax, "iwae": iwae}.get(name, partial(table, name))(options)
        found[name] = {"lines": lines, "orders": orders(lines)}
        print_table(name, found[name])
    print(json.dumps({"options": {**vars(options), "data": str(options.data)}, "tables": found}))
    return 0


def read_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line; ``--quick`` overrides what takes long."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    names = [*TABLES, "iwae", "reinmax"]
    add("--quick", action="store_true", help="a smoke test of a few steps; its figures mean nothing")
    add("--tables", nargs="+", choices=names, default=names, metavar="TABLE", help=f"of {', '.join(names)}; all")
    add("--data", type=Path, help="folder with MNIST and BinarizedMNIST; default: digits, as a smoke test")
    add("--steps", type=int, default=5000, help="training steps of jang and linear (5000)")
    add("--rates", type=float, nargs="+", default=RATES, help="learning rates to choose from, on validation images")
    add("--search", type=int, default=1000, help="steps of that choice (1000)")
    add("--epochs", type=int, default=EPOCHS, help="epochs of reinmax (160)")
    add("--iwae-epochs", type=int, default=20, help="epochs of iwae (20; the paper has 3280)")
    add("--iwae-batch", type=int, default=20, help="its batches (20)")
    add("--samples", type=int, default=5000, help="its importance samples (5000)")
    add("--images", type=int, help="its test images, the first ones; all by default")
    add("--estimators", nargs="+", metavar="NAME", help="only these, by the names in the tables")
    add("--first-layer", choices=LINEAR, metavar="NAME", help="estimator of the first of linear-2's layers; the same")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds (0 1 2)")
    add("--threads", type=int, default=1, help="threads of torch (1)")
    options = parser.parse_args(arguments)
    known = {*JANG, *LINEAR, *REINMAX, *OBJECTIVES}
    if wrong := [name for name in options.estimators or [] if name not in known]:
        parser.error(f"no estimator is called {wrong[0]!r}; there are {', '.join(sorted(known))}")
    if options.quick:
        options.steps, options.search, options.epochs, options.seeds = 20, 5, 1, options.seeds[:2]
        options.rates, options.iwae_epochs, options.samples = options.rates[:2], 1, 10
    return options


def wanted(makers: dict[str, Any], options: argparse.Namespace) -> list[str]:
    """Return the estimators of a table that were requested."""
    return [name for name in makers if options.estimators is None or name in options.estimators]


def table(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a line for each estimator of a table of linear models."""
    title, model, nodes, makers, published, batch, which = TABLES[name]
    data, lines = binary_images(options.data), []
    mean = data.train.mean(0)
    for estimator in wanted(makers, options):
        row, chosen = estimator, dict.fromkeys(nodes, estimator)
        if options.first_layer and len(nodes) > 1:
            row, chosen[nodes[0]] = f"{options.first_layer} + {estimator}", options.first_layer

        def fresh(chosen: dict[str, str] = chosen) -> dict[str, Any]:
            return {node: makers[own](len(mean)) for node, own in chosen.items()}

        make, label = partial(model, mean), f"{title}, {row}"
        rate = chosen_rate(make, fresh, data, options.search, batch, options.rates, label)
        runs = []
        for seed in options.seeds:
            torch.manual_seed(seed)
            runs.append(run(make, fresh(), data, options.steps, batch, rate, f"{label}, seed {seed}"))
        report(f"{label}, rate {rate:g}", runs)
        lines.append(line(row, options.steps, runs, published.get(row), which, rate))
    return lines


def reinmax(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a line for each estimator with ReinMax's VAE; without a choice, for the two published ones."""
    train, test = grey_images(options.data)
    lines = []
    for estimator in wanted(REINMAX if options.estimators else REINMAX_PUBLISHED, options):
        runs = []
        for seed in options.seeds:
            runs.append(run_reinmax(train, test, estimator, options.epochs, seed))
            report(f"ReinMax's VAE, {estimator}, seed {seed}, {options.epochs} epochs of {REINMAX_BATCH}", runs[-1:])
        published = REINMAX_PUBLISHED.get(estimator, (None, None))[0]
        lines.append(line(estimator, runs[0]["steps"], runs, published, "train", None))
    return lines


def iwae(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a line for each objective of the IWAE paper's model."""
    train, test = grey_images(options.data)
    test, lines = test[: options.images], []
    for objective in wanted(OBJECTIVES, options):
        runs = []
        for seed in options.seeds:
            runs.append(
                run_iwae(train, test, objective, options.iwae_epochs, seed, options.samples, options.iwae_batch)
            )
            report(f"IWAE's model, {objective}, seed {seed}, {options.iwae_epochs} epochs", runs[-1:])
        found = line(objective, runs[0]["steps"], runs, IWAE_PUBLISHED[objective], "test", None)
        found |= {"images": len(test), "samples": options.samples}
        lines.append(found | {part: [run[part] for run in runs] for part in SECONDS})
    return lines


def report(label: str, runs: list[dict[str, Any]]) -> None:
    """Say on stderr what a run gave: a long benchmark that is cut short has not been in vain."""
    print(f"{label}: {json.dumps(runs)}", file=sys.stderr, flush=True)


def line(
    estimator: str, steps: int, runs: list[dict[str, Any]], published: float | None, which: str, rate: float | None
) -> dict[str, Any]:
    """Return the figures of one estimator: means over seeds with standard errors."""
    record: dict[str, Any] = {"estimator": estimator, "steps": steps, "rate": rate, "published": published}
    for part in ("train", "test"):
        values = [run[part] for run in runs]
        record |= {part: statistics.mean(values), f"{part}_error": error(values), f"{part}_seeds": values}
    return record | {"compared": which}


def error(values: list[float]) -> float | None:
    """Return the standard error of a mean over seeds, where there are two or more finite ones."""
    finite = len(values) > 1 and all(map(math.isfinite, values))
    return statistics.stdev(values) / math.sqrt(len(values)) if finite else None


def orders(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the mean difference over seeds, positive where the published order comes out, with its error."""
    by_name, found = {record["estimator"]: record for record in lines}, []
    for better, worse in ORDERS:
        if {better, worse} <= by_name.keys():
            a, b = (by_name[name][f"{by_name[name]['compared']}_seeds"] for name in (better, worse))
            gaps = [y - x for x, y in zip(a, b, strict=True)]
            found.append({"better": better, "worse": worse, "gap": statistics.mean(gaps), "error": error(gaps)})
    return found


def print_table(name: str, found: dict[str, Any]) -> None:
    """Print a table, and the orders below it."""
    lines = found["lines"]
    if not lines:
        return
    others = {"reinmax": "ReinMax's VAE, 4 latents of 8 categories", "iwae": "IWAE's model, one stochastic layer"}
    title = TABLES[name][0] if name in TABLES else others[name]
    if name == "iwae":
        title += " (train: minus the test bound; test: minus the test log-likelihood)"
    print(f"\n{title}: minus the bound in nats, s.e. over {len(lines[0]['train_seeds'])} seeds; "
          f"published: {lines[0]['compared']}")  # fmt: skip
    print(f"{'estimator':<24}{'steps':>8}{'rate':>8}{'train':>9}{'s.e.':>6}{'test':>9}{'s.e.':>6}{'published':>11}")
    for row in sorted(lines, key=lambda row: row[row["compared"]]):
        rate = "" if row["rate"] is None else f"{row['rate']:g}"
        figures = "".join(f"{row[p]:>9.2f}{number(row[f'{p}_error']):>6}" for p in ("train", "test"))
        print(f"{row['estimator']:<24}{row['steps']:>8}{rate:>8}{figures}{number(row['published']):>11}")
    for row in lines if name == "iwae" else []:
        clock, processor = (statistics.mean(row[part]) for part in SECONDS)
        print(f"{row['estimator']}: test log-likelihood of {row['images']} images x {row['samples']} samples in "
              f"{clock:.0f} s ({processor:.0f} s of processor), {torch.get_num_threads()} threads")  # fmt: skip
    for order in found["orders"]:
        verdict = "as published" if order["gap"] > 0 else "NOT as published"
        if order["error"] is not None and abs(order["gap"]) < 2 * order["error"]:
            verdict = "within two standard errors"
        print(
            f"{order['better']} ahead of {order['worse']} by {order['gap']:.2f} ({number(order['error'])}): {verdict}"
        )


def number(value: float | None) -> str:
    """Return two decimals, or a dash."""
    return "-" if value is None else f"{value:.2f}"


def binary_images(folder: Path | None) -> Split:
    """Return the fixed binarization of MNIST (Larochelle's split), or digits with a threshold."""
    if folder is None:
        digits = (grey_digits() > 0.5).float()
        return Split(digits[:1400], digits[1400:1600], digits[1600:])
    with np.load(folder / "BinarizedMNIST" / "binarized_mnist.npz") as file:
        parts = [np.unpackbits(file[name], axis=1)[:, :784] for name in ("train", "valid", "test")]
    return Split(*(torch.from_numpy(part).float() for part in parts))


def grey_images(folder: Path | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return gray training and test images in 0..1, ``[images, pixels]``."""
    if folder is None:
        digits = grey_digits()
        return digits[:1400], digits[1400:]
    parts = []
    for name in ("train", "t10k"):
        with gzip.open(folder / "MNIST" / "raw" / f"{name}-images-idx3-ubyte.gz") as file:
            raw = np.frombuffer(file.read(), np.uint8, offset=16)
        parts.append(torch.from_numpy(raw.copy()).reshape(-1, 784).float() / 255)
    return parts[0], parts[1]


def grey_digits() -> torch.Tensor:
    from sklearn.datasets import load_digits

    return torch.from_numpy(load_digits().data).float() / 16


if __name__ == "__main__":
    sys.exit(main())
