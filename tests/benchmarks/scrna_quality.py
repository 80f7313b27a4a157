"""Held-out log-likelihood on single-cell RNA counts: vaekit's models next to scVI.

For each seed both sides see one split into training, validation and test cells, the same genes, and the
same observed library size (the sum over those genes). Each test cell gets log p(x | library) by importance
sampling from the encoder's posterior, and its ELBO, in nats. Differences are ours - scVI, paired by cell.

  scVI         scvi-tools' defaults, trained by its own .train() on the training cells, with and without
               early stopping; the better of the two on the validation cells is reported.
  scVI tuned   the same with a KL warm-up of 50 epochs in place of 400, with and without early stopping
               and a return to the best epoch; again the better of the two on the validation cells.

"refined" is scVI's log-likelihood with a proposal fitted to each cell (--refine steps). Every estimate here
is a lower bound in expectation. An encoder is too sure of itself on new cells, a few samples then carry all
the weight (column ESS), and the plain estimate stays nats below the true value; the refined one comes much
closer. If our plain estimate beats scVI's refined one, scVI's encoder is not the reason.

Needs the extra "benchmark" (scvi-tools, flax). Progress goes to stderr, tables to stdout, and the last line
of stdout is one JSON object with the same figures.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

import vaekit
from vaekit.data import GeneExpressionData
from vaekit.diagnostics import importance_sampled_log_likelihood

if TYPE_CHECKING:
    import scvi_reference as reference  # otherwise imported where scVI is needed: --help is not one of the places

CONFIGS = Path(__file__).parents[2] / "configs"
PACKAGED = "pbmc68k"
LABELS = "cell_type"
SPLIT = (0.8, 0.1, 0.1)


@dataclass(frozen=True)
class Result:
    """One model's scores of the test cells of one seed, in the order of the test split.

    Attributes
    ----------
    log_likelihood, elbo, ess
        Float64 ``[cells]``.
    refined
        Log-likelihood with a refined proposal, or None.
    about
        How the model was trained, for the record.
    """

    model: str
    seed: int
    log_likelihood: Tensor
    elbo: Tensor
    ess: Tensor
    refined: Tensor | None = None
    about: dict[str, Any] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """Return the means over cells, as plain numbers."""
        return {
            "model": self.model,
            "seed": self.seed,
            "cells": len(self.log_likelihood),
            "log_likelihood": self.log_likelihood.mean().item(),
            "elbo": self.elbo.mean().item(),
            "median_ess": self.ess.median().item(),
            "refined_log_likelihood": None if self.refined is None else self.refined.mean().item(),
            **self.about,
        }


@dataclass(frozen=True)
class Cells:
    """A split data set as scVI needs it, and the arguments with which vaekit opens the same.

    Attributes
    ----------
    data
        The datamodule, which holds the split.
    counts
        Every cell, every modelled gene, CSR.
    flags
        Flags of ``vaekit fit`` for the same data.
    """

    data: GeneExpressionData
    counts: sparse.csr_matrix
    flags: list[str]

    def rows(self, split: str) -> np.ndarray:
        """Return the rows of 'train', 'val' or 'test'."""
        return self.data.split_indices[split].numpy()


def main(arguments: list[str] | None = None) -> int:
    """Run the comparison and print it."""
    options = read_arguments(arguments)
    import scvi_reference as reference

    reference.quiet()
    sections = []
    for source in options.data:
        results = [result for seed in options.seeds for result in compare(source, seed, options)]
        sections.append(
            {
                "data": source,
                "results": [result.summary() for result in results],
                "differences": list(differences(results)),
            }
        )
        print_tables(sections[-1])
    print(json.dumps({"samples": options.samples, "seeds": options.seeds, "data_sets": sections}))
    return 0


def read_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line; ``--quick`` overrides what takes long."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add(
        "--quick",
        action="store_true",
        help="a smoke test: 1 seed, 5 epochs, 50 samples; its figures mean nothing",
    )
    add(
        "--data",
        nargs="+",
        default=[PACKAGED],
        metavar="DATA",
        help=f"{PACKAGED} (packaged), or .h5ad files with counts in X",
    )
    add(
        "--seeds",
        nargs="+",
        type=int,
        default=[0, 1, 2],
        metavar="N",
        help="seeds of split, training and sampling (0 1 2)",
    )
    add("--samples", type=int, default=1000, metavar="K", help="importance samples a cell (1000)")
    add(
        "--refine",
        type=int,
        default=200,
        metavar="STEPS",
        help="steps that fit scVI's proposal to each cell; 0: leave out (200)",
    )
    add(
        "--configs",
        nargs="+",
        type=Path,
        default=[CONFIGS / "pbmc_gaussian.yaml", CONFIGS / "pbmc_mixed.yaml"],
        metavar="YAML",
        help="configurations of vaekit fit (pbmc_gaussian and pbmc_mixed)",
    )
    add(
        "--genes",
        type=int,
        default=2000,
        metavar="N",
        help="most variable genes of the training cells, for files with more (2000)",
    )
    add(
        "--gene-likelihood",
        choices=("nb", "zinb", "poisson"),
        default="nb",
        help="scVI's likelihood; take that of the configurations (nb)",
    )
    add("--no-tuned", action="store_true", help="compare with scVI's defaults alone")
    add("--scvi-only", action="store_true", help="leave vaekit's models out")
    add(
        "--check",
        action="store_true",
        help="also score scVI with 500 and 2000 samples, to see whether it is stable",
    )
    options = parser.parse_args(arguments)
    options.epochs = None
    if options.quick:
        options.seeds, options.samples, options.epochs = options.seeds[:1], 50, 5
        options.refine = min(options.refine, 20)
    if options.scvi_only:
        options.configs = []
    if missing := [str(path) for path in options.configs if not path.is_file()]:
        parser.error(f"no such configuration: {', '.join(missing)}")
    if missing := [name for name in options.data if name != PACKAGED and not Path(name).is_file()]:
        parser.error(f"no such file, and not {PACKAGED!r}: {', '.join(missing)}")
    return options


def compare(source: str, seed: int, options: argparse.Namespace) -> Iterator[Result]:
    """Train and score both sides on one split."""
    import scvi_reference as reference

    cells = open_cells(source, seed, options.genes)
    report(f"{cells.data.description}, seed {seed}")
    yield run_scvi("scVI", reference.DEFAULTS, cells, seed, options)
    if not options.no_tuned:
        yield run_scvi("scVI tuned", reference.TUNED, cells, seed, options)
    for config in options.configs:
        yield run_ours(config, cells, seed, options)


def open_cells(source: str, seed: int, genes: int) -> Cells:
    """Open the data and split them."""
    if source == PACKAGED:
        data, flags = GeneExpressionData(seed=seed, split=SPLIT), []
    else:
        plain = GeneExpressionData(path=source)
        chosen: dict[str, Any] = {"path": source}
        if LABELS in plain.adata.obs:
            chosen["label_key"] = LABELS
        if plain.features > genes:
            chosen["n_top_genes"] = genes
        data = GeneExpressionData(**chosen, seed=seed, split=SPLIT)
        flags = [part for key, value in chosen.items() for part in (f"--data.{key}", str(value))]
    return Cells(data, all_counts(data), flags)


def all_counts(data: GeneExpressionData) -> sparse.csr_matrix:
    """Return the counts as vaekit's loaders give them, after a check that the library size is scVI's."""
    blocks = []
    for batch in data.dataloader("all"):
        total = batch.x.sum(1)
        if (total < 1).any():
            raise SystemExit(f"{data.source} has cells without counts, on which scVI is not defined")
        if not torch.allclose(total, batch.size_factor.squeeze(1)):
            raise SystemExit(f"{data.source}: the size factor is not the sum over the modelled genes")
        blocks.append(sparse.csr_matrix(batch.x.numpy()))
    return sparse.vstack(blocks, format="csr")


def run_scvi(
    name: str,
    variants: tuple[reference.Variant, ...],
    cells: Cells,
    seed: int,
    options: argparse.Namespace,
) -> Result:
    """Train the variants of scVI and score the one that is best on the validation cells."""
    import scvi_reference as reference

    fit = reference.best_fit(
        cells.counts,
        cells.rows("train"),
        cells.rows("val"),
        seed=seed,
        num_samples=options.samples,
        max_epochs=options.epochs,
        gene_likelihood=options.gene_likelihood,
        variants=variants,
    )
    test = cells.rows("test")
    scores = reference.score(
        fit.model, cells.counts, test, num_samples=options.samples, refine_steps=options.refine, seed=seed
    )
    about: dict[str, Any] = {"variant": fit.variant.name, "epochs": fit.epochs, "seconds": fit.seconds}
    if options.check:
        about["stability"] = stability(fit.model, cells, seed)
    refined = scores.refined if options.refine else None
    return checked(Result(name, seed, scores.log_likelihood, scores.elbo, scores.ess, refined, about))


def stability(model: Any, cells: Cells, seed: int) -> dict[int, float]:
    """Return scVI's mean log-likelihood with 500 and with 2000 samples."""
    import scvi_reference as reference

    means = {}
    for size in (500, 2000):
        scores = reference.score(model, cells.counts, cells.rows("test"), num_samples=size, seed=seed + 1)
        means[size] = scores.log_likelihood.mean().item()
    report(f"scVI with 500 and 2000 samples: {means[500]:.2f} and {means[2000]:.2f} nats a cell")
    return means


def run_ours(config: Path, cells: Cells, seed: int, options: argparse.Namespace) -> Result:
    """Train by the command line, load the checkpoint, score the test cells."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        train_ours(config, cells, seed, Path(folder), options.epochs)
        seconds = time.perf_counter() - started
        checkpoint = Path(folder) / "last.ckpt"
        check_split(checkpoint, cells.data)
        model = vaekit.load(checkpoint)
    torch.manual_seed(seed)
    estimate = importance_sampled_log_likelihood(model, cells.data.dataloader("test"), num_samples=options.samples)
    about = {"config": config.name, "seconds": seconds}
    return checked(Result(config.stem, seed, estimate.log_likelihood, estimate.elbo, estimate.ess, about=about))


def train_ours(config: Path, cells: Cells, seed: int, folder: Path, epochs: int | None) -> None:
    """Run ``vaekit fit`` as a user would; its output goes to stderr."""
    command = [sys.executable, "-m", "vaekit.cli.main", "fit", "--config", str(config)]
    command += ["--data.seed", str(seed), "--seed_everything", str(seed), *cells.flags]
    command += ["--trainer.default_root_dir", str(folder), "--trainer.logger", "CSVLogger"]
    if epochs is not None:
        command += ["--trainer.max_epochs", str(epochs)]
    subprocess.run(command, check=True, stdout=sys.stderr)


def check_split(checkpoint: Path, data: GeneExpressionData) -> None:
    """Stop unless the checkpoint was trained on this very split: else test cells may have been trained on."""
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    trained = content[type(data).__qualname__]["split_indices"]
    for name, rows in data.split_indices.items():
        if not torch.equal(torch.as_tensor(trained[name]), rows):
            raise SystemExit(f"{checkpoint.name} was trained on another split ({name} cells differ)")


def checked(result: Result) -> Result:
    """Report a result, and warn where its log-likelihood cannot be right."""
    log_likelihood, elbo = result.log_likelihood.mean().item(), result.elbo.mean().item()
    refined = "" if result.refined is None else f", refined {result.refined.mean().item():.2f}"
    report(f"{result.model}, seed {result.seed}: test {log_likelihood:.2f}{refined}, ELBO {elbo:.2f}")
    if not log_likelihood >= elbo:
        report(f"WARNING: {result.model}: the log-likelihood is below its own lower bound")
    return result


def differences(results: list[Result]) -> Iterator[dict[str, Any]]:
    """Yield ours - scVI over the test cells of each seed, and over those of all seeds together."""
    models = list(dict.fromkeys(result.model for result in results))
    of = {(result.model, result.seed): result for result in results}
    seeds = sorted({result.seed for result in results})
    references = [(name, refined) for name in models if name.startswith("scVI") for refined in (False, True)]
    for model in models:
        for name, refined in references:
            if model.startswith("scVI") or (refined and of[name, seeds[0]].refined is None):
                continue
            gaps = [paired(of[model, seed], of[name, seed], refined) for seed in seeds]
            label = name + (" refined" if refined else "")
            for seed, gap in zip([*seeds, "pooled"], [*gaps, torch.cat(gaps)], strict=True):
                yield {"model": model, "reference": label, "seed": seed, **mean_and_error(gap)}


def paired(ours: Result, theirs: Result, refined: bool) -> Tensor:
    """Return the difference in log-likelihood, cell by cell."""
    return ours.log_likelihood - (theirs.refined if refined else theirs.log_likelihood)


def mean_and_error(gap: Tensor) -> dict[str, Any]:
    """Return the mean over cells and its standard error."""
    return {
        "cells": len(gap),
        "mean": gap.mean().item(),
        "standard_error": gap.std().item() / math.sqrt(len(gap)) if len(gap) > 1 else None,
    }


def print_tables(section: dict[str, Any]) -> None:
    """Print the scores, then the paired differences."""
    print(f"\n{section['data']}: held-out nats a cell, higher is better")
    print(f"{'model':<18}{'seed':>6}{'log p(x)':>11}{'ELBO':>11}{'ESS':>7}{'refined':>11}{'train s':>9}  trained as")
    for row in section["results"]:
        refined = row["refined_log_likelihood"]
        print(
            f"{row['model']:<18}{row['seed']:>6}{row['log_likelihood']:>11.2f}{row['elbo']:>11.2f}"
            f"{row['median_ess']:>7.1f}{'-' if refined is None else format(refined, '.2f'):>11}"
            f"{row['seconds']:>9.0f}  {row.get('variant', row.get('config'))}"
        )
    if section["differences"]:
        print("\npaired difference in log p(x) a cell, ours - scVI, with its standard error over cells")
        print(f"{'model':<18}{'against':<20}{'seed':>7}{'cells':>7}{'mean':>9}{'s.e.':>8}")
    for row in section["differences"]:
        error = row["standard_error"]
        print(
            f"{row['model']:<18}{row['reference']:<20}{row['seed']:>7}{row['cells']:>7}{row['mean']:>9.2f}"
            f"{'-' if error is None else format(error, '.2f'):>8}"
        )


def report(line: str) -> None:
    """Print a line of progress."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
