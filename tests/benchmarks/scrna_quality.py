"""Held-out log-likelihood of single-cell RNA counts: vaekit's configurations next to scVI.

Both sides see the same split, genes and observed library size (the sum over these genes) for each seed. Each test cell
gets its ELBO and log p(x | library) by importance sampling from the encoder's posterior, in nats. Differences are ours
minus scVI, paired by cell.

  scVI         scvi-tools' defaults, trained by its own .train() on the training cells, with and without early stopping;
               the better of the two on the validation cells is reported
  scVI tuned   the same with a KL warm-up of 50 epochs instead of 400, with and without early stopping and a return to
               the best epoch; again the better of the two on the validation cells

"refined" is scVI's log-likelihood with a proposal that is fitted to each cell (--refine steps). Every estimate is a
lower bound in expectation. The posterior of an encoder is too narrow for new cells, so that few samples have most of
the weight (column ESS), and the plain estimate is nats below the true value. The refined estimate is much closer. If
our plain estimate exceeds scVI's refined one, scVI's encoder is not the reason.

Needs the extra "benchmark" (scvi-tools, flax). Progress goes to stderr, tables to stdout, and the last line of stdout
is one JSON object with the same numbers.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from quality_tables import Result, checked, differences, print_tables, report
from scipy import sparse
from shipped_runs import CONFIGS, fit

import vaekit
from vaekit.data import GeneExpressionData
from vaekit.diagnostics import importance_sampled_log_likelihood

if TYPE_CHECKING:
    import scvi_reference as reference  # imported inside functions, so that --help is fast

PACKAGED = "pbmc68k"
LABELS = "cell_type"
SPLIT = (0.8, 0.1, 0.1)


@dataclass(frozen=True)
class Cells:
    """A split data set for scVI, and the flags that make vaekit open the same.

    Attributes
    ----------
    data
        Data module with the split.
    counts
        Counts of all cells and modeled genes, CSR.
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
        help="smoke test: 1 seed, 5 epochs, 50 samples; its numbers mean nothing",
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
    add("--samples", type=int, default=1000, metavar="K", help="importance samples per cell (1000)")
    add(
        "--refine",
        type=int,
        default=200,
        metavar="STEPS",
        help="steps that fit scVI's proposal to each cell; 0: no refined estimate (200)",
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
        help="scVI's likelihood; choose that of the configurations (nb)",
    )
    add("--no-tuned", action="store_true", help="compare with scVI's defaults only")
    add("--scvi-only", action="store_true", help="omit vaekit's models")
    add(
        "--check",
        action="store_true",
        help="also score scVI with 500 and 2000 samples, to check that it is stable",
    )
    options = parser.parse_args(arguments)
    options.epochs = None
    if options.quick:
        options.seeds, options.samples, options.epochs = options.seeds[:1], 50, 5
        options.refine = min(options.refine, 20)
    if options.scvi_only:
        options.configs = []
    if missing := [str(path) for path in options.configs if not path.is_file()]:
        parser.error(f"configuration not found: {', '.join(missing)}")
    if missing := [name for name in options.data if name != PACKAGED and not Path(name).is_file()]:
        parser.error(f"file not found, and not {PACKAGED!r}: {', '.join(missing)}")
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
    """Return the counts of vaekit's loaders; check that the library size equals scVI's."""
    blocks = []
    for batch in data.dataloader("all"):
        total = batch.x.sum(1)
        if (total < 1).any():
            raise SystemExit(f"{data.source} has cells without counts, for which scVI is not defined")
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
    report(f"scVI with 500 and 2000 samples: {means[500]:.2f} and {means[2000]:.2f} nats per cell")
    return means


def run_ours(config: Path, cells: Cells, seed: int, options: argparse.Namespace) -> Result:
    """Train by the command line, load the checkpoint and score the test cells."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        checkpoint = fit(config, Path(folder), seed, *cells.flags, epochs=options.epochs)
        seconds = time.perf_counter() - started
        check_split(checkpoint, cells.data)
        model = vaekit.load(checkpoint)
    torch.manual_seed(seed)
    estimate = importance_sampled_log_likelihood(model, cells.data.dataloader("test"), num_samples=options.samples)
    about = {"config": config.name, "seconds": seconds}
    return checked(Result(config.stem, seed, estimate.log_likelihood, estimate.elbo, estimate.ess, about=about))


def check_split(checkpoint: Path, data: GeneExpressionData) -> None:
    """Stop unless the checkpoint was trained on this split, so that test cells did not train it."""
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    trained = content[type(data).__qualname__]["split_indices"]
    for name, rows in data.split_indices.items():
        if not torch.equal(torch.as_tensor(trained[name]), rows):
            raise SystemExit(f"{checkpoint.name} was trained on another split ({name} cells differ)")


if __name__ == "__main__":
    sys.exit(main())
