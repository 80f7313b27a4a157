"""Which units and codes the shipped configurations use: do their latents collapse?

Each configuration that needs no download (pbmc_*, digits_*) is trained by `vaekit fit` as it is shipped, and looked at:

  active units   of a continuous latent, those whose posterior mean varies by more than 0.01 over all rows of the data
                 (Burda et al. 2016); topics of a Dirichlet latent count as states of a discrete one
  used codes     of a discrete latent, the states of a mean posterior probability above 0.01 over all rows, of which the
                 data explain more than 1 % of the variance, summed over its variables (a variable that always takes the
                 same state has none); "perplexity" is the exponential of the mean entropy of that use: of equal states
                 in use, their number
  ELBO           evidence lower bound of the test rows, nats per row

  python tests/benchmarks/latent_usage.py                                  all, as shipped
  python tests/benchmarks/latent_usage.py --configs pbmc_mixed --seeds 0 1 2
  python tests/benchmarks/latent_usage.py --epochs 30                      of each run, in place of its own
  python tests/benchmarks/latent_usage.py --quick                          a smoke test, its figures mean nothing

Progress goes to stderr, the table to stdout, and the last line of stdout is one JSON object with the same figures.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import vaekit
from vaekit.analysis import load_training_data
from vaekit.diagnostics import importance_sampled_log_likelihood, posterior_summaries
from vaekit.latents import Latent
from vaekit.models import VAE

CONFIGS = Path(__file__).parents[2] / "configs"
SHIPPED = sorted(path.stem for kind in ("pbmc", "digits") for path in CONFIGS.glob(f"{kind}_*.yaml"))
SAMPLES = 100  # draws a row, of which the bound is the mean


def main(arguments: list[str] | None = None) -> int:
    """Train, look, print."""
    options = read_arguments(arguments)
    rows: list[dict[str, Any]] = []
    print(f"{'configuration':<20}{'seed':>5}{'latent':>8}  {'kind':<12}{'in use':>12}{'perplexity':>12}{'ELBO':>10}")
    for config in options.configs:
        for seed in options.seeds:
            with tempfile.TemporaryDirectory() as folder:
                model = train(config, seed, Path(folder), options.epochs)
                found = list(measure(model))
            for row in found:
                rows.append({"configuration": config, "seed": seed, **row})
                perplexity = "-" if row["perplexity"] is None else f"{row['perplexity']:.1f}"
                in_use = f"{row['used']} of {row['of']}"
                print(
                    f"{config:<20}{seed:>5}{row['latent']:>8}  {row['kind']:<12}{in_use:>12}{perplexity:>12}"
                    f"{row['elbo']:>10.2f}",
                    flush=True,
                )
    print(json.dumps({"epochs": options.epochs, "rows": rows}))
    return 0


def read_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--quick", action="store_true", help="a smoke test: 2 epochs, the first seed")
    add("--configs", nargs="+", choices=SHIPPED, default=SHIPPED, metavar="NAME", help=", ".join(SHIPPED))
    add("--seeds", nargs="+", type=int, default=[0], metavar="N", help="of split, training and draws (0)")
    add("--epochs", type=int, metavar="N", help="of each training (each configuration's own)")
    options = parser.parse_args(arguments)
    if options.epochs is not None and options.epochs < 1:
        parser.error(f"--epochs is {options.epochs}: at least 1 is needed")
    if options.quick:
        options.seeds, options.epochs = options.seeds[:1], 2
    return options


def train(config: str, seed: int, folder: Path, epochs: int | None) -> VAE:
    """Train by the command line, as a user would; its output goes to stderr."""
    command = [sys.executable, "-m", "vaekit.cli.main", "fit", "--config", str(CONFIGS / f"{config}.yaml")]
    command += ["--data.seed", str(seed), "--seed_everything", str(seed)]
    command += ["--trainer.default_root_dir", str(folder), "--trainer.logger", "false"]
    if epochs is not None:
        command += ["--trainer.max_epochs", str(epochs)]
    subprocess.run(command, check=True, stdout=sys.stderr)
    return vaekit.load(folder / "last.ckpt")


def measure(model: VAE) -> Iterator[dict[str, Any]]:
    """Yield a line for each latent."""
    data = load_training_data(model)
    torch.manual_seed(0)
    elbo = importance_sampled_log_likelihood(model, data.dataloader("test"), SAMPLES).elbo.mean().item()
    summaries = posterior_summaries(model, data.dataloader("all"))
    for name, latent in model.latents.items():
        if not latent.is_nuisance:
            yield {"latent": name, "kind": type(latent).__name__, **use(latent, summaries[name]), "elbo": elbo}


def use(latent: Latent, summary: Tensor) -> dict[str, Any]:
    """Return how many units or codes of a latent are in use, of how many, and the perplexity of the codes."""
    active = latent.activity(latent.moments(summary)) > latent.active_threshold
    used = {"used": int(active.sum()), "of": active.numel(), "perplexity": None}
    if latent.state_shape is None:
        return used
    entropy = torch.special.entr(latent.state_probabilities(summary).mean(0)).sum(-1).mean().item()
    return {**used, "perplexity": math.exp(entropy)}


if __name__ == "__main__":
    raise SystemExit(main())
