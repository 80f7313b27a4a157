"""Active dimensions and codes in use of the shipped configurations.

Each configuration that needs no download (pbmc_*, digits_*) is trained by ``vaekit fit`` as shipped. The table has:

  in use      of a continuous latent, the active dimensions: the posterior mean has a variance above 0.01 over all
              observations (Burda et al. 2016). Of a discrete latent, the states with a mean probability above 0.01,
              if the data explain more than 1 % of the variance of their variable; topics count as states
  perplexity  of the mean probabilities of a discrete latent: the number of states, if all are equally frequent
  ELBO        of the test observations, in nats per observation

  python tests/benchmarks/latent_usage.py                                  all, as shipped
  python tests/benchmarks/latent_usage.py --configs pbmc_mixed --seeds 0 1 2
  python tests/benchmarks/latent_usage.py --epochs 30                      other length of all runs
  python tests/benchmarks/latent_usage.py --quick                          smoke test; its numbers mean nothing

Progress goes to stderr, the table to stdout, and the last line of stdout is one JSON object with the same numbers.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from shipped_runs import CONFIGS, fit
from torch import Tensor

import vaekit
from vaekit.analysis import load_training_data
from vaekit.diagnostics import importance_sampled_log_likelihood, posterior_summaries
from vaekit.latents import Latent
from vaekit.models import VAE

SHIPPED = sorted(path.stem for kind in ("pbmc", "digits") for path in CONFIGS.glob(f"{kind}_*.yaml"))
SAMPLES = 100  # per observation


def main(arguments: list[str] | None = None) -> int:
    """Train the configurations and print the table."""
    options = read_arguments(arguments)
    rows: list[dict[str, Any]] = []
    print(f"{'configuration':<20}{'seed':>5}{'latent':>8}  {'kind':<12}{'in use':>12}{'perplexity':>12}{'ELBO':>10}")
    for config in options.configs:
        for seed in options.seeds:
            with tempfile.TemporaryDirectory() as folder:
                model = vaekit.load(fit(CONFIGS / f"{config}.yaml", Path(folder), seed, epochs=options.epochs))
                results = list(measure(model))
            for row in results:
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
    add("--quick", action="store_true", help="smoke test: 2 epochs, the first seed")
    add("--configs", nargs="+", choices=SHIPPED, default=SHIPPED, metavar="NAME", help=", ".join(SHIPPED))
    add("--seeds", nargs="+", type=int, default=[0], metavar="N", help="seeds of split, training and samples (0)")
    add("--epochs", type=int, metavar="N", help="epochs of each run (as configured)")
    options = parser.parse_args(arguments)
    if options.epochs is not None and options.epochs < 1:
        parser.error(f"--epochs={options.epochs} must be at least 1.")
    if options.quick:
        options.seeds, options.epochs = options.seeds[:1], 2
    return options


def measure(model: VAE) -> Iterator[dict[str, Any]]:
    """Yield one row per latent."""
    data = load_training_data(model)
    torch.manual_seed(0)
    elbo = importance_sampled_log_likelihood(model, data.dataloader("test"), SAMPLES).elbo.mean().item()
    summaries = posterior_summaries(model, data.dataloader("all"))
    for name, latent in model.latents.items():
        if not latent.is_nuisance:
            yield {"latent": name, "kind": type(latent).__name__, **use(latent, summaries[name]), "elbo": elbo}


def use(latent: Latent, summary: Tensor) -> dict[str, Any]:
    """Return the number of dimensions or states in use, their total number, and the perplexity of the states."""
    active = latent.activity(latent.moments(summary)) > latent.active_threshold
    used = {"used": int(active.sum()), "of": active.numel(), "perplexity": None}
    if latent.state_shape is None:
        return used
    entropy = torch.special.entr(latent.state_probabilities(summary).mean(0)).sum(-1).mean().item()
    return {**used, "perplexity": math.exp(entropy)}


if __name__ == "__main__":
    raise SystemExit(main())
