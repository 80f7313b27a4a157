"""SVRG and SAGA: linear convergence on logistic regression, and the variance of a VAE's gradient.

  (a) l2-regularised logistic regression on scikit-learn's breast cancer (two classes) and digits (ten), features
      standardized, no intercept, in float64: the distance of the weights to the optimum after so many passes, the
      best of a few settings each, next to SGD with the best constant step. SGD and SAGA draw mini-batches
      independently; "SGD, reshuffled" passes through the rows in random order, which lowers where it stalls; "SVRG, by
      norm" draws rows of large norm more often. The iterates with mini-batches of one are compared with NumPy's and,
      where it is installed, copt's
  (b) the model of configs/pbmc_gaussian.yaml, trained for a part of its epochs: the variance of the gradient of one
      mini-batch (rows, latents and dropout drawn again), plain and by SVRG with the random numbers of both points in
      common or not, as training moves away from the snapshot; and the bias that an inner loop has, as the full
      gradient is a mean of finitely many draws

--parts chooses among them. Progress goes to stderr, tables to stdout, and the last line of stdout is one JSON object
with the same figures. --quick is a smoke test.
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

import logistic_sums
import torch
import vae_sums

DECAYS = {"0.1": 0.1, "0.01": 0.01, "1/n": 0.0}  # 0 stands for 1/n


def main(arguments: list[str] | None = None) -> int:
    """Measure the chosen parts and print them."""
    options = read_arguments(arguments)
    torch.set_num_threads(1)
    record: dict[str, Any] = {"quick": options.quick, "seed": options.seed}
    for part in options.parts:
        started = time.perf_counter()
        record[part] = PARTS[part](options)
        record[part]["seconds"] = round(time.perf_counter() - started, 1)
    if options.figure is not None:
        draw(record, options.figure)
        print(f"wrote {options.figure}", file=sys.stderr)
    for line in record.get("a", {}).get("lines", []):
        del line["curve"]
    print()
    print(json.dumps(record))
    return 0


def read_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line; ``--quick`` overrides what takes long."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--quick", action="store_true", help="a smoke test, about a minute")
    add("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="PART", help="of: a b (all)")
    add("--seed", type=int, default=0, metavar="N", help="(0)")
    add("--data", nargs="+", choices=list(logistic_sums.SETTINGS), default=list(logistic_sums.SETTINGS), metavar="NAME",
        help="of (a): 'breast cancer', digits (both)")  # fmt: skip
    add("--passes", nargs=3, type=int, default=[60, 250, 300], metavar="N", help="of (a), a lambda (60 250 300)")
    add("--epochs", type=int, default=60, metavar="N", help="of training before (b), of the config's 300 (60)")
    add(
        "--marks", nargs="+", type=int, default=[0, 1, 3, 9, 27, 90], metavar="N", help="steps from the snapshot in (b)"
    )
    add("--draws", type=int, default=256, metavar="N", help="gradients that a variance of (b) is taken over (256)")
    add("--full-draws", type=int, default=16, metavar="N", help="passes of the snapshot's full gradient in (b) (16)")
    add("--figure", type=Path, metavar="PNG", help="where to draw the curves")
    options = parser.parse_args(arguments)
    if options.quick:
        options.passes, options.data, options.epochs = [6, 6, 6], ["breast cancer"], 5
        options.marks, options.draws, options.full_draws = [0, 9], 64, 2
    if options.figure is not None and not options.figure.parent.is_dir():
        parser.error(f"--figure: no such folder: {options.figure.parent}")
    return options


def logistic(options: argparse.Namespace) -> dict[str, Any]:
    """Measure and print (a)."""
    limits = dict(zip(DECAYS, options.passes, strict=True))
    lines = [line for name in options.data for line in logistic_sums.table(name, DECAYS, limits, options.seed)]
    print("\n(a) l2-regularised logistic regression: distance of the weights to the optimum")
    print(f"{'data':<14}{'lambda':>7} {'method':<16}{'to 1e-8':>8}{'passes':>7}{'distance':>10}"
          f"{'dec/pass':>9}{'R2':>6}  setting")  # fmt: skip
    for line in lines:
        reached = "-" if line["passes to 1e-8"] is None else f"{line['passes to 1e-8']:.0f}"
        print(f"{line['data']:<14}{line['lambda']:>7} {line['method']:<16}{reached:>8}{line['limit']:>7}"
              f"{line['distance']:>10.1e}{line['decades a pass']:>9.3f}{line['R2 of the line']:>6.2f}  "
              f"{line['setting']}")  # fmt: skip
    worst = max(line["error of the optimum"] for line in lines)
    print(f"the optimum is known to {worst:.0e}; SGD's distance is a mean over its last 5 epochs")
    peers = logistic_sums.against_peers(3)
    print("largest difference of a weight after 3 passes: " + ", ".join(f"{k} {v:.1e}" for k, v in peers.items()))
    return {"lines": lines, "differences": peers}


def vae(options: argparse.Namespace) -> dict[str, Any]:
    """Measure and print (b)."""
    found = vae_sums.table(options.epochs, options.marks, options.draws, options.full_draws, options.seed)
    print(f"\n(b) PBMC Gaussian VAE after {found['epochs']} epochs, {found['parameters']} parameters, mini-batches of "
          f"{found['batch_size']} of {found['rows']} rows, {options.draws} gradients each")  # fmt: skip
    print(f"{'steps':>6}{'epochs':>7}{'moved':>8}{'|grad|^2':>10}{'plain':>10}{'SVRG':>10}{'ratio':>8}"
          f"{'2 x rows':>9}{'own numbers':>12}{'bias/|grad|':>12}{'+-':>7}{'z':>6}")  # fmt: skip
    for line in found["lines"]:
        variance = line["variance"]
        print(f"{line['steps']:>6}{line['epochs']:>7.2f}{line['moved']:>8.3f}{line['norm'] ** 2:>10.3g}"
              f"{variance[vae_sums.PLAIN]:>10.4g}{variance[vae_sums.COMMON]:>10.4g}{line['ratio']:>8.3f}"
              f"{line['ratio, twice the rows']:>9.3f}{line['ratio, own numbers']:>12.2f}"
              f"{line['relative bias']:>12.2f}{line['bias noise']:>7.2f}{line['z']:>6.1f}")  # fmt: skip
    print(
        "ratio and own numbers: variance of SVRG over that of plain mini-batches, with random numbers in common or not;"
    )
    print("2 x rows: that of plain mini-batches of twice the rows, which cost as much as a step of SVRG")
    ms = found["lines"][-1]["milliseconds"]
    print("milliseconds a gradient: " + ", ".join(f"{name} {value:.1f}" for name, value in ms.items()))
    for name, value in found["residual"].items():
        print(f"  {name}: {value:.4g}")
    return found


def draw(record: dict[str, Any], path: Path) -> None:
    """Draw the distances by pass, and the variances by step."""
    from matplotlib.figure import Figure

    names = sorted({line["data"] for line in record.get("a", {}).get("lines", [])})
    figure = Figure(figsize=(5 * (len(names) + ("b" in record)), 4), layout="constrained")
    axes = figure.subplots(1, len(names) + ("b" in record), squeeze=False)[0]
    styles = {"0.1": "-", "0.01": "--", "1/n": ":"}
    for axis, name in zip(axes, names, strict=False):
        for line in record["a"]["lines"]:
            if line["data"] == name:
                colour = f"C{list(logistic_sums.SETTINGS[name]).index(line['method'])}"
                passes, distances = zip(*line["curve"], strict=True)
                label = line["method"] if line["lambda"] == "0.1" else None
                axis.semilogy(passes, distances, styles[line["lambda"]], color=colour, label=label, lw=1.2)
        axis.set(title=f"{name}: lambda 0.1 (-), 0.01 (--), 1/n (:)", xlabel="passes over the gradients",
                 ylabel="distance to the optimum")  # fmt: skip
        axis.legend()
    if "b" in record:
        lines = record["b"]["lines"]
        for name in (vae_sums.PLAIN, vae_sums.COMMON, vae_sums.INDEPENDENT):
            axes[-1].plot(
                [line["steps"] for line in lines], [line["variance"][name] for line in lines], "o-", label=name
            )
        axes[-1].set_xscale("symlog", linthresh=1)
        axes[-1].set(title="PBMC Gaussian VAE", xlabel="steps from the snapshot", ylabel="variance of a gradient",
                     ylim=(0, None))  # fmt: skip
        axes[-1].legend()
    figure.savefig(path, dpi=130)


PARTS = {"a": logistic, "b": vae}

if __name__ == "__main__":
    sys.exit(main())
