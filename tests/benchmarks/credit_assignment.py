"""Credit along chains of decisions: what critics and lambda-returns are worth, and a design built from mixed choices.

  (a) a chain of four binary decisions: bias, variance and mean squared error of the gradient by lambda and by how good
      the critics are. The bias is exact, the variance measured; z compares the measured mean with the exact one
  (b) CartPole: steps of the simulator until the mean return of 40 episodes reaches 475, for the score function without
      a baseline, with a learned one, and with generalized advantages; --seeds trainings of each
  (c) a mirror of thin films, materials (discrete) and thicknesses (continuous), through a simulator in NumPy: what
      descents with mixed estimators find, next to an enumeration of all sequences of materials
  (d) the sequential discrete VAE on digits and on blood cells: held-out bounds by the estimator that trains it; --seeds
      trainings of each

--parts chooses among them; --figures draws (a) and (b). Progress goes to stderr, tables to stdout, and the last line of
stdout is one JSON object with the same figures. --quick is a smoke test: the figures of (b) to (d) mean nothing then.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent))

import cart_pole
import lambda_table
import numpy as np
import sequential_bounds
import thin_film
import torch
from tqdm.auto import tqdm

COLOURS = ("#ABABAB", "#FF800E", "#006BA4", "#595959", "#C85200")  # set apart by color-blind readers, too


def main(arguments: list[str] | None = None) -> int:
    """Measure the chosen parts and print them."""
    options = read_arguments(arguments)
    torch.set_num_threads(1)
    record: dict[str, Any] = {"quick": options.quick}
    for part in options.parts:
        torch.manual_seed(0)
        started = time.perf_counter()
        record[part] = PARTS[part](options)
        record[part]["seconds"] = round(time.perf_counter() - started, 1)
    print()
    print(json.dumps(record))
    return 0


def read_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line; ``--quick`` overrides what takes long."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--quick", action="store_true", help="a smoke test, under a minute")
    add("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="PART", help="of: a b c d (all)")
    add("--figures", type=Path, metavar="FOLDER", help="where lambda.png and cart_pole.png go (none are drawn)")
    add("--replicates", type=int, default=200_000, metavar="N", help="estimates of a gradient in (a) (200000)")
    add("--seeds", type=int, default=5, metavar="N", help="trainings of each method in (b) and (d) (5)")
    add(
        "--budget", type=int, default=100_000, metavar="N", help="steps of the simulator, of a training in (b) (100000)"
    )
    add("--layers", type=int, default=5, metavar="N", help="of the mirror in (c) (5)")
    add("--descents", type=int, default=24, metavar="N", help="side by side in (c) (24)")
    add("--steps", type=int, default=400, metavar="N", help="of a descent in (c) (400)")
    add("--epochs", type=int, metavar="N", help="of a training in (d) (those of the configs: 100 and 300)")
    options = parser.parse_args(arguments)
    if options.quick:
        options.epochs = 1
        options.replicates, options.seeds, options.budget = 20_000, 2, 1500
        options.layers, options.descents, options.steps = 2, 4, 40
    for name in ("replicates", "seeds", "budget", "layers", "descents", "steps"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} is {getattr(options, name)}, it must be at least 1")
    if options.epochs is not None and options.epochs < 1:
        parser.error(f"--epochs is {options.epochs}, it must be at least 1")
    if options.figures is not None:
        options.figures.mkdir(parents=True, exist_ok=True)
    return options


def lambdas(options: argparse.Namespace) -> dict[str, Any]:
    """Measure, print and draw (a)."""
    norm, lines = lambda_table.table(options.replicates, few=30, many=600)
    many = f"mse_{lambda_table.TRAJECTORIES}"
    print(f"\n(a) four binary decisions, exact gradient of norm {norm:.3f}; {options.replicates:,} estimates of each")
    print(
        f"{'critic':<20}{'lambda':>7}{'bias':>9}{'measured':>10}{'z':>6}{'variance':>10}{'MSE':>9}"
        f"{f'of {lambda_table.TRAJECTORIES}':>9}"
    )
    for line in lines:
        print(
            f"{line['critic']:<20}{line['lam']:>7g}{line['bias']:>9.4f}{line['measured_bias']:>10.4f}{line['z']:>6.2f}"
            f"{line['variance']:>10.3f}{line['mse']:>9.3f}{line[many]:>9.4f}"
        )
    if options.figures is not None:
        _draw_lambdas(lines, many, options.figures / "lambda.png")
    return {"norm": norm, "lines": lines}


def _draw_lambdas(lines: list[dict[str, Any]], many: str, file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    axes = figure.subplots(1, 3, sharex=True)
    columns = {"bias": "bias", "variance": "variance of one trajectory", many: f"MSE of {many[4:]} trajectories"}
    critics = [name for name in dict.fromkeys(line["critic"] for line in lines) if name != "none"]
    for axis, (column, title) in zip(axes, columns.items(), strict=True):
        for critic, colour in zip(critics, COLOURS[1:], strict=True):
            own = [line for line in lines if line["critic"] == critic]
            axis.plot([line["lam"] for line in own], [line[column] for line in own], "o-", color=colour, label=critic)
        if column == many:
            axis.axhline(lines[0][many], color=COLOURS[0], linestyle="--", label="no critic")
        axis.set(title=title, xlabel="lambda", ylim=(0, None))
    figure.legend(*axes[2].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(file, dpi=120)


def carts(options: argparse.Namespace) -> dict[str, Any]:
    """Measure, print and draw (b)."""
    paths: dict[str, list[list[tuple[int, float]]]] = {}
    with tqdm(total=len(cart_pole.RATES) * options.seeds * options.budget, desc="(b)", unit="step") as bar:
        for method in cart_pole.RATES:
            paths[method] = [cart_pole.train(method, seed, options.budget, bar) for seed in range(options.seeds)]
    print(
        f"\n(b) CartPole: steps until the mean return of 40 episodes is {cart_pole.GOAL:g}, "
        f"seeds 0 to {options.seeds - 1}, lambda {cart_pole.LAM}"
    )
    print(
        f"{'method':<20}{'rate':>7}{'reached':>9}{'median':>9}  steps of each seed; mean return of the last 40 episodes"
    )
    lines = []
    for method, runs in paths.items():
        steps = [cart_pole.steps_to_goal(path) for path in runs]
        last = [float(np.mean([mean for _, mean in path[-cart_pole.WINDOW :]])) for path in runs]
        median = float(np.median([np.inf if s is None else s for s in steps]))
        shown = ", ".join("-" if s is None else f"{s:,}" for s in steps)
        print(
            f"{method:<20}{cart_pole.RATES[method]:>7g}{sum(s is not None for s in steps):>6}/{len(steps)}"
            f"{'-' if np.isinf(median) else f'{median:,.0f}':>9}  {shown}; {', '.join(f'{x:.0f}' for x in last)}"
        )
        lines.append(
            {"method": method, "steps": steps, "median": None if np.isinf(median) else median, "last_return": last}
        )
    if options.figures is not None:
        _draw_carts(paths, options)
    return {"budget": options.budget, "lam": cart_pole.LAM, "lines": lines}


def _draw_carts(paths: dict[str, list[list[tuple[int, float]]]], options: argparse.Namespace) -> None:
    from matplotlib.figure import Figure
    from scipy.stats import t as student

    figure = Figure(figsize=(6.5, 3.6), layout="constrained")
    axis = figure.subplots()
    grid = np.linspace(0, options.budget, 200)
    for (method, runs), colour in zip(paths.items(), COLOURS, strict=False):
        curves = np.array([cart_pole.smooth(path, grid) for path in runs])
        mean = curves.mean(0)
        half = student.ppf(0.975, max(len(runs) - 1, 1)) * curves.std(0, ddof=min(1, len(runs) - 1)) / len(runs) ** 0.5
        axis.plot(grid, mean, color=colour, label=method)
        axis.fill_between(grid, np.maximum(mean - half, 0), np.minimum(mean + half, 500), color=colour, alpha=0.2, lw=0)
    axis.axhline(cart_pole.GOAL, color="black", linewidth=0.8, linestyle=":")
    axis.set(xlabel="steps of the simulator", ylabel="mean return of 40 episodes", ylim=(0, 510))
    axis.set_title(f"CartPole: mean of {options.seeds} seeds, 95 % confidence band of the mean", fontsize=10)
    axis.legend(frameon=False, loc="lower right")
    figure.savefig(options.figures / "cart_pole.png", dpi=120)


def mirror(options: argparse.Namespace) -> dict[str, Any]:
    """Measure and print (c)."""
    known = thin_film.enumerate_designs(options.layers, starts=3)
    sequences = {design.materials: rank for rank, design in enumerate(known, start=1)}
    print(
        f"\n(c) a mirror of {options.layers} layers: transmittance in per cent, 500-600 nm, bare glass "
        f"{thin_film.transmittance(np.ones(1), np.ones(1)):.2f}; {len(known)} sequences enumerated"
    )
    print(f"{'found by':<32}{'%':>8}  {'materials from the air, nm':<60}{'rank':>5}{'right':>8}")
    rows = [("enumeration and L-BFGS-B", known[0], None), ("  the second best sequence", known[1], None)]
    for estimator in thin_film.THICKNESS:
        found, _ = thin_film.descend(estimator, options.layers, options.steps, options.descents)
        right = sum(design.materials == known[0].materials for design in found)
        rows.append((estimator, found[0], f"{right}/{len(found)}"))
    lines = []
    for name, design, right in rows:
        layers = " ".join(f"{m} {w:.1f}" for m, w in zip(design.materials, design.thickness, strict=True))
        rank = sequences[design.materials]
        print(f"{name:<32}{design.transmittance:>8.3f}  {layers:<60}{rank:>5}{right or '':>8}")
        lines.append({"found_by": name.strip(), **design._asdict(), "rank": rank, "right": right})
    print("rank: of the sequence of materials among all; right: descents that end at the best sequence")
    return {"lines": lines}


def sequences(options: argparse.Namespace) -> dict[str, Any]:
    """Measure and print (d)."""
    lines = sequential_bounds.table(options.seeds, options.epochs)
    print(
        f"\n(d) sequential discrete VAE, bounds in nats: mean and standard error over seeds 0 to {options.seeds - 1}, "
        f"lambda {sequential_bounds.LAM}"
    )
    print(
        f"{'data':<8}{'trained by':<24}{'ELBO':>10}{'s.e.':>7}{'log p(x)':>11}{'s.e.':>7}{'training ELBO':>15}"
        f"{'s.e.':>7}  test ELBO of each seed"
    )
    for line in lines:
        print(f"{line['data']:<8}{line['method']:<24}", end="")
        for name, width in (("elbo", 10), ("log_likelihood", 11), ("train_elbo", 15)):
            error = line[f"{name}_se"]
            print(f"{line[name]:>{width}.2f}{'-' if error is None else f'{error:.2f}':>7}", end="")
        print("  " + ", ".join(f"{value:.2f}" for value in line["elbo_runs"]))
    epochs, replicates = (1, 10) if options.quick else (30, 200)
    noise = sequential_bounds.variances(epochs, replicates)
    print(f"\nvariance of the posteriors' gradient after {epochs} epochs on the digits, by lambda of the critics")
    print(f"{'':<16}{'no critic':>11}" + "".join(f"{line['lam']:>9g}" for line in noise[1:4]))
    for label, part in (("no baseline", noise[:4]), ("leave-one-out", noise[4:])):
        print(f"{label:<16}{part[0]['variance']:>11.3f}" + "".join(f"{line['variance']:>9.3f}" for line in part[1:]))
    return {"lam": sequential_bounds.LAM, "epochs": options.epochs, "lines": lines, "variances": noise}


PARTS = {"a": lambdas, "b": carts, "c": mirror, "d": sequences}

if __name__ == "__main__":
    sys.exit(main())
