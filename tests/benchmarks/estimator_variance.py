"""How noisy, and how wrong, gradient estimates are: measured next to closed forms and published figures.

  (a) E[(b - 0.499)^2], b ~ Bernoulli(sigmoid(phi)): the variance of one estimate, next to its exact value, which is
      computed here by sums and integrals, and the figure that the project was given to match
  (b) E||z||^2, z ~ Normal(mu, 1) at mu = 0, where score function and pathwise both apply: the variance of a component
      and its ratio to that of pathwise with as many samples, which is (D + 2)(D + 4) / 4 for the score function and
      D + 2 for leave-one-out
  (c) a VAE with two linear layers of binary variables, by the protocol of REBAR's repository: log variances of the
      gradients of many estimators along one training, and of NVIL with its parts put back one by one
  (d) ReinMax's VAE, 784-512-256-(4 x 8), 4096 states: bias, standard deviation and cosine of estimates of the encoder's
      gradient for one batch, next to the exact gradient, after short training by leave-one-out with 4 samples. The
      figures depend much on that training: one by a biased estimator (--trainer) leads to where its own mean
      estimate is near 0, and the part of the gradient left over is what it does not see
  (e) the same VAE: the exact bias of straight-through and ReinMax at several temperatures, where three trainers lead
      to after 0, 100 and 600 steps

--parts chooses among them. Progress goes to stderr, tables to stdout, and the last line of stdout is one JSON object
with the same figures. --quick is a smoke test: the figures of (c) and (d) mean nothing then.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import closed_form
import reinmax_bias
import reinmax_model
import reinmax_protocol
import torch
import two_layer
import two_layer_model

TRAINERS = ("leave-one-out, 4", "straight-through", "ReinMax, 1")


def main(arguments: list[str] | None = None) -> int:
    """Measure the chosen parts and print them."""
    options = read_arguments(arguments)
    torch.set_num_threads(1)
    record: dict[str, Any] = {"quick": options.quick, "seed": options.seed}
    for part in options.parts:
        torch.manual_seed(options.seed)
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
    add("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), metavar="PART", help="of: a b c d e (all)")
    add("--seed", type=int, default=0, metavar="N", help="of (a), (b), (d) and (e) (0)")
    add("--replicates", type=int, default=1_000_000, metavar="N", help="estimates in (a) and (b) (1000000)")
    add("--data", type=Path, metavar="NPZ", help="images of (c): Omniglot as an .npz file; else scikit-learn's digits")
    add("--steps", nargs="+", type=int, default=list(two_layer.MARKS), metavar="N", help="where (c) looks (959 1918)")
    add("--seeds", nargs="+", type=int, default=[0], metavar="N", help="of (c), each a training of its own (0)")
    add("--draws", type=int, default=300, metavar="N", help="gradients that a variance of (c) is taken over (300)")
    add("--mnist", type=Path, metavar="FOLDER", help="with train-images-idx3-ubyte.gz for (d), (e); else digits")
    add("--training", type=int, default=600, metavar="N", help="steps of training before (d) (600)")
    add("--trainer", choices=list(TRAINERS), default="leave-one-out, 4", metavar="NAME", help=f"{', '.join(TRAINERS)}")
    add("--batch", type=int, default=100, metavar="N", help="images in the batch of (d) (100)")
    add("--estimates", type=int, default=2000, metavar="N", help="of each estimator in (d) (2000)")
    options = parser.parse_args(arguments)
    if options.quick:
        options.replicates, options.steps, options.draws, options.seeds = 50_000, [10, 20], 20, options.seeds[:1]
        options.training, options.batch, options.estimates = 20, 20, 40
    if options.data is not None and not options.data.is_file():
        parser.error(f"--data: no such file: {options.data}")
    if options.mnist is not None and not (options.mnist / "train-images-idx3-ubyte.gz").is_file():
        parser.error(f"--mnist: no train-images-idx3-ubyte.gz in {options.mnist}")
    for name, least in (("replicates", 100), ("draws", 2), ("estimates", 4), ("batch", 1)):
        if getattr(options, name) < least:
            parser.error(f"--{name} is {getattr(options, name)}, it must be at least {least}")
    return options


def one_bit(options: argparse.Namespace) -> dict[str, Any]:
    """Measure and print (a)."""
    lines = closed_form.bernoulli_table(options.replicates)
    print(f"\n(a) E[(b - {closed_form.TARGET})^2], b ~ Bernoulli(sigmoid(phi)), {options.replicates:,} estimates")
    print(
        f"{'phi':>4}{'gradient':>12}{'given':>12}  {'variance of':<18}{'given':>12}{'exact':>12}"
        f"{'measured':>12}{'s.e.':>10}{'z':>7}"
    )
    for line in lines:
        print(
            f"{line['phi']:>4g}{line['gradient']:>12.4g}{line['published_gradient']:>12.4g}  {line['estimator']:<18}"
            f"{line['published']:>12.4g}{line['exact']:>12.5g}{line['measured']:>12.5g}"
            f"{line['standard_error']:>10.1e}{line['z']:>7.2f}"
        )
    return {"lines": lines}


def two_ways(options: argparse.Namespace) -> dict[str, Any]:
    """Measure and print (b)."""
    lines = closed_form.normal_table(options.replicates)
    print("\n(b) E||z||^2, z ~ Normal(mu, 1) at mu = 0: variance of a component; ratio to pathwise at equal samples")
    print(
        f"{'D':>5}  {'estimator':<18}{'exact':>10}{'measured':>12}{'s.e.':>10}{'z':>7}{'exact ratio':>13}"
        f"{'measured':>11}"
    )
    for line in lines:
        print(
            f"{line['dimensions']:>5}  {line['estimator']:<18}{line['exact']:>10g}{line['measured']:>12.5g}"
            f"{line['standard_error']:>10.1e}{line['z']:>7.2f}{line['exact_ratio']:>13g}{line['measured_ratio']:>11.5g}"
        )
    return {"lines": lines}


def two_layers(options: argparse.Namespace) -> dict[str, Any]:
    """Measure and print (c)."""
    grey = two_layer_model.images(options.data)
    source = "scikit-learn's digits: not comparable with the published" if options.data is None else options.data.name
    bounds, lines, gaps = two_layer.table(grey, options.steps, options.draws, options.seeds)
    print(
        f"\n(c) two linear layers of bits, {source}; seeds {', '.join(map(str, options.seeds))}: log variance of the "
        f"gradient, nats.\nall, encoder: of which parameters, along the training (mean of the window); at rest: of the "
        f"encoder at that step, {options.draws} gradients\nbound: the window's mean evidence lower bound"
    )
    print(f"{'step':>6}  {'estimator':<32}{'published':>10}{'all':>9}{'s.e.':>7}{'encoder':>9}{'s.e.':>7}"
          f"{'at rest':>9}{'s.e.':>7}")  # fmt: skip
    for line in lines + gaps:
        figures = "".join(f"{line[c]['mean']:>9.3f}{shown(line[c]['standard_error']):>7}" for c in two_layer.COLUMNS)
        name = line.get("estimator", line.get("gap"))
        print(f"{line['step']:>6}  {name:<32}{shown(line['published']):>10}{figures}")
    for line in bounds:
        error = shown(line["standard_error"])
        print(f"step {line['step']}: bound {line['mean']:.2f} (s.e. {error}), published {shown(line['published'])}")
    for line in gaps:
        if line["gap"] == "NVIL - REBAR":
            print(f"step {line['step']}: {verdict(line, gaps)}")
    return {"data": source, "bounds": bounds, "lines": lines, "gaps": gaps}


def verdict(nvil: dict[str, Any], gaps: list[dict[str, Any]]) -> str:
    """Say how the gap from NVIL to REBAR compares with what was requested, and what it is built from."""
    found = {g["gap"]: g["all"]["mean"] for g in gaps if g["step"] == nvil["step"]}
    whole, local, standard = (found[f"{name} - REBAR"] for name in ("NVIL", "NVIL, local", "NVIL, standardised"))
    reached = "at least" if whole >= two_layer.TARGET_GAP else "below"
    return (
        f"NVIL as published - REBAR is {whole:.2f} nats, {reached} the {two_layer.TARGET_GAP:g} asked for; of these "
        f"{whole - local:.2f} are for NVIL's want of a signal for each layer, {local - standard:.2f} for that of "
        f"standardised costs, and {standard:.2f} are left to REBAR"
    )


def shown(value: float | None) -> str:
    """Return a number for the table, or a dash."""
    return "-" if value is None else f"{value:.3f}"


def sum_of_states(options: argparse.Namespace) -> dict[str, Any]:
    """Measure and print (d)."""
    grey = reinmax_model.images(options.mnist)
    source = "scikit-learn's digits" if options.mnist is None else "MNIST"
    vae, stream = reinmax_model.DiscreteVAE(grey.shape[1]), reinmax_model.batches(grey, options.batch)
    bound = reinmax_model.train(vae, stream, options.training, reinmax_protocol.contestants()[options.trainer]())
    problem = reinmax_protocol.Problem(vae, next(stream))
    steps = min(200, options.training)
    lines = reinmax_protocol.table(problem, options.estimates, steps)
    largest = problem.logits.softmax(-1).amax(-1).mean().item()
    print(
        f"\n(d) {source}, {options.batch} images, {reinmax_model.STATES} states, after {options.training} steps by "
        f"{options.trainer} (ELBO {bound:.1f}, mean largest posterior probability "
        f"{largest:.2f});\nencoder's gradient beside the exact one, as "
        f"shares of its norm; {options.estimates} estimates. No published cosine was at hand to compare with.\n"
        "bias: of the mean, less what chance adds (s.e. noise); z: of the bias, in the direction that half the "
        "estimates show; cosine: of\none estimate, on average; of mean: of the expected estimate; *: unbiased; cost: "
        "evaluations an image"
    )
    print(f"{'estimator':<24}{'cost':>6}{'bias':>9}{'noise':>9}{'z':>8}{'deviation':>11}{'cosine':>9}{'of mean':>9}")
    for line in lines:
        name = line["estimator"] + (" *" if line["unbiased"] else "")
        if "refused" in line:
            print(f"{name:<24}refused: {line['refused']}")
            continue
        print(
            f"{name:<24}{line['evaluations']:>6}{line['bias']:>9.4f}{line['noise']:>9.4f}{line['z']:>8.2f}"
            f"{line['deviation']:>11.4f}{line['cosine']:>9.4f}{line['cosine_of_mean']:>9.4f}"
        )
    return {"data": source, "trainer": options.trainer, "elbo": bound, "largest_probability": largest, "lines": lines}


def biases(options: argparse.Namespace) -> dict[str, Any]:
    """Measure and print (e)."""
    grey = reinmax_model.images(options.mnist)
    source = "scikit-learn's digits" if options.mnist is None else "MNIST"
    marks = (0, 20) if options.quick else reinmax_bias.MARKS
    lines = reinmax_bias.table(grey, marks, options.seed, options.estimates)
    names = list(lines[0]["estimators"])
    head = "".join(f"{name.replace('straight-through', 'ST'):>13}" for name in names)
    print(
        f"\n(e) {source}, {reinmax_bias.IMAGES} images: exact bias as a share of the exact gradient's norm / cosine of "
        "the mean estimate;\nlargest: mean largest posterior probability; lower: whether ReinMax at 1 is less biased "
        "than straight-through at 1"
    )
    for prefix, norm, title in (
        ("reconstruction_", "reconstruction_norm", "at the logits, of the reconstruction (the paper's measure)"),
        ("", "norm", "of the encoder's parameters, of the whole bound"),
    ):
        print(f"{title}\n{'trained by':<18}{'steps':>6}{'largest':>9}{'norm':>9}{head}  lower")
        for line in lines:
            found = {n: (own[f"{prefix}bias"], own[f"{prefix}cosine"]) for n, own in line["estimators"].items()}
            figures = "".join(f"{found[n][0]:>7.3f}/{found[n][1]:>5.2f}" for n in names)
            lower = "yes" if found["ReinMax, 1"][0] < found["straight-through, 1"][0] else "no"
            print(
                f"{line['trainer']:<18}{line['step']:>6}{line['largest_probability']:>9.2f}"
                f"{line['norms'][norm]:>9.3g}{figures}  {lower}"
            )
    worst = max((abs(e["z"]) for line in lines for e in line["estimators"].values() if "z" in e), default=0.0)
    count = sum("z" in e for line in lines for e in line["estimators"].values())
    print(
        f"means of {options.estimates} estimates of vaekit's own against these sums: largest |z| {worst:.2f} of {count}"
    )
    return {"data": source, "lines": lines}


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "a": one_bit,
    "b": two_ways,
    "c": two_layers,
    "d": sum_of_states,
    "e": biases,
}


if __name__ == "__main__":
    sys.exit(main())
