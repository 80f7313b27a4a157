"""Differential expression against known truth: actual fraction of false discoveries, and power, at nominal ones.

Simulated cells (`vaekit.data.simulate_counts`) in three designs: "plain", one batch and equal clusters; "batches",
three batches with effects on every gene, half of each cluster in a separate batch; "small", clusters of 50 % to
2 % of the cells; "donors", five donors with effects on every gene for each of two halves of the clusters, unknown to
the model; "crossed", the same with five donors of both halves, whose effects in each half are independent. In each, two
pairs of clusters are compared. A gene is truly different if the log2 ratio of its mean compositions, without effects of
batches or donors, exceeds delta in size.

vaekit   `vaekit.analysis.differential_expression`
replicates
         the same with `replicate_key`, in the designs with donors
means    the same model; posterior draws of the groups' mean compositions, with no error but theirs
pairs    the same model; fold changes between pairs of cells, 5000 posterior draws of each group
wilcoxon, t-test
         scanpy on log-normalized counts; adjusted P at most the level, and an estimated fold change beyond delta
scvi     scvi-tools' own, with batch correction, where that package is installed (--scvi; its posterior
         probabilities of a change beyond delta, called as vaekit's are)

"FDP" is the fraction of genes called that do not differ, "power" that of differing genes called, both averaged over
runs (a run that calls nothing has an FDP of 0), with standard errors over runs. Runs on one data set are not
independent: those errors are somewhat too small.

With --memory, the peak memory of a process that compares two groups of 100,000 cells x 2,000 genes and returns the
normalized expression of 20 genes, data and imports included.

The last line of stdout is one JSON object with the same figures.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import torch

LEVELS = (0.05, 0.1, 0.2)
DESIGNS: dict[str, dict[str, Any]] = {
    "plain": {},
    "batches": {"batches": 3, "confounding": 0.5},
    "small": {"cluster_sizes": [0.5, 0.3, 0.12, 0.06, 0.02]},
    "donors": {"batches": 10},
    "crossed": {"batches": 10},
}
NUM_DONORS = 5  # of each half of the clusters; its other half of the simulated cells is omitted
PAIRS = (("cluster0", "cluster1"), ("cluster3", "cluster4"))
DRAWS, GROUP_DRAWS = 5000, 20  # of single cells, and of the groups


def main(arguments: list[str] | None = None) -> int:
    """Run the comparison and print it."""
    options = read_arguments(arguments)
    warnings.filterwarnings("ignore")
    for name in ("pytorch_lightning", "lightning.pytorch", "pytorch_lightning.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if options.only_memory:
        print(json.dumps(measure_memory(options)))
        return 0
    result: dict[str, Any] = {"arguments": vars(options)}
    if options.memory:
        command = [sys.executable, str(Path(__file__).resolve()), "--only-memory"]
        command += ["--quick"] if options.quick else []
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.decode()
        result["memory"] = json.loads(output.strip().splitlines()[-1])
        words = (
            "memory: {cells} cells x {genes} genes, {density:.0%} non-zero: peak {peak_gb:.2f} GB, {before_gb:.2f} GB "
            "before the analysis; comparison {de_seconds:.0f} s, 20 genes {normalized_seconds:.0f} s"
        )
        print(words.format(**result["memory"]))
    else:
        runs = [
            run for design in options.designs for seed in range(options.seeds) for run in compare(design, seed, options)
        ]
        result |= {"table": table_of(runs), "runs": runs}
        print_table(result["table"])
    print(json.dumps(result))
    return 0


def read_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line; ``--quick`` overrides what takes long."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--quick", action="store_true", help="a smoke test: few cells, genes and epochs; its figures mean nothing")
    add("--seeds", type=int, default=5, help="data sets of each design (5)")
    add("--designs", nargs="+", choices=DESIGNS, default=list(DESIGNS), help="designs (all)")
    add("--cells", type=int, default=4000, help="simulated cells (4000)")
    add("--genes", type=int, default=1000, help="simulated genes (1000)")
    add("--epochs", type=int, default=40, help="of the training (40)")
    add("--delta", type=float, default=0.25, help="log2 fold change of no interest (0.25)")
    add("--scvi", type=int, default=0, metavar="EPOCHS", help="train scVI too, so long (0: no)")
    add("--memory", action="store_true", help="measure the memory of a large comparison instead")
    add("--only-memory", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.quick:
        options.seeds, options.cells, options.genes, options.epochs = 1, 600, 200, 2
        options.scvi = min(options.scvi, 1)
    return options


def trained(adata: anndata.AnnData, seed: int, epochs: int, batch_key: str | None = "batch", **kwargs: Any) -> Any:
    """Train a Gaussian VAE with the default settings."""
    import pytorch_lightning as pl

    from vaekit import GaussianVAE
    from vaekit.data import GeneExpressionData
    from vaekit.likelihoods import NegativeBinomial

    pl.seed_everything(seed, verbose=False)
    data = GeneExpressionData(adata, batch_key=batch_key, seed=seed)
    model = GaussianVAE(data.features, NegativeBinomial(), data.covariates)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(accelerator="cpu", max_epochs=epochs, enable_model_summary=False, **quiet, **kwargs)
    trainer.fit(model, datamodule=data)
    return model.eval()


def compare(design: str, seed: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each method, pair of clusters and level."""
    adata, donor_key = simulate(design, seed, options)
    model = trained(adata, seed, options.epochs, None if donor_key else "batch")
    rival = scvi_model(adata, seed, options.scvi) if options.scvi else None
    rows = []
    for pair in PAIRS:
        truth = np.log2(adata.varm["composition"][pair[0]] / adata.varm["composition"][pair[1]]).to_numpy()
        different = np.abs(truth) > options.delta
        for method, calls in every_method(adata, model, rival, pair, options.delta, seed, donor_key).items():
            for level, called in calls.items():
                rows.append(
                    {
                        "design": design,
                        "seed": seed,
                        "pair": "-".join(pair),
                        "method": method,
                        "level": level,
                        "called": int(called.sum()),
                        "fdp": float((~different[called]).mean()) if called.any() else 0.0,
                        "power": float(called[different].mean()),
                    }
                )
    print(f"{design}, seed {seed}: done", file=sys.stderr)
    return rows


def simulate(design: str, seed: int, options: argparse.Namespace) -> tuple[anndata.AnnData, str | None]:
    """Return the cells of a design, and the column of their donors."""
    from vaekit.data import simulate_counts

    has_donors = design in ("donors", "crossed")
    cells = options.cells * (2 if has_donors else 1)
    adata = simulate_counts(cells, options.genes, seed=1000 + seed, **DESIGNS[design])
    if not has_donors:
        return adata, None
    half, donor = adata.obs["cluster"].cat.codes.to_numpy() % 2, adata.obs["batch"].cat.codes.to_numpy()
    adata.obs["donor"] = [f"donor{code % NUM_DONORS if design == 'crossed' else code}" for code in donor]
    return adata[donor // NUM_DONORS == half].copy(), "donor"


def every_method(
    adata: anndata.AnnData,
    model: Any,
    rival: Any,
    pair: tuple[str, str],
    delta: float,
    seed: int,
    donor_key: str | None,
) -> dict[str, dict[float, np.ndarray]]:
    """Return which genes each method calls at each level."""
    from vaekit.analysis import differential_expression
    from vaekit.analysis.differential_expression import call_at_fdr

    probabilities = {}
    for method, key in {"vaekit": None, **({"replicates": donor_key} if donor_key else {})}.items():
        table = differential_expression(adata, model, "cluster", *pair, delta=delta, seed=seed, replicate_key=key)
        probabilities[method] = table["proba_de"].reindex(adata.var_names).to_numpy()
    probabilities |= from_draws(adata, model, pair, delta, seed)
    if rival is not None:
        theirs = rival.differential_expression(
            groupby="cluster",
            group1=pair[0],
            group2=pair[1],
            mode="change",
            delta=delta,
            batch_correction=True,
            silent=True,
        )
        probabilities["scvi"] = theirs["proba_de"].reindex(adata.var_names).to_numpy()
    result = {name: {level: call_at_fdr(proba, level) for level in LEVELS} for name, proba in probabilities.items()}
    return result | {method: tested(adata, pair, delta, method) for method in ("wilcoxon", "t-test")}


def from_draws(
    adata: anndata.AnnData, model: Any, pair: tuple[str, str], delta: float, seed: int
) -> dict[str, np.ndarray]:
    """Return the probability of a change by pairs of cells, and by group means, from the decoder alone."""
    from vaekit.analysis import prepare_query
    from vaekit.analysis.covariate_values import set_batch
    from vaekit.analysis.decoding import composition, evaluating

    query = prepare_query(model, adata)
    batches = len(model.data_registry["batch_categories"])

    def alternate(batch: Any) -> Any:
        return set_batch(batch, torch.arange(len(batch.x)) % batches, batches) if batches else batch

    rng = np.random.default_rng(seed)
    cells, means = [], []
    with evaluating(model, seed):
        for name in pair:
            rows = np.flatnonzero(adata.obs["cluster"] == name)
            batch = query.dataset.__getitems__(torch.from_numpy(rng.choice(rows, DRAWS)))
            cells.append(composition(model, model.sample_posterior(batch, 1), alternate(batch))[0])
            group = query.dataset.__getitems__(torch.from_numpy(rows))
            turns = alternate(group)
            means.append(
                torch.stack(
                    [composition(model, model.sample_posterior(group, 1), turns)[0].mean(0) for _ in range(GROUP_DRAWS)]
                )
            )
    change = [(first.log2() - second.log2()).abs() > delta for first, second in (cells, means)]
    return {name: share.double().mean(0).numpy() for name, share in zip(("pairs", "means"), change, strict=True)}


def tested(adata: anndata.AnnData, pair: tuple[str, str], delta: float, method: str) -> dict[float, np.ndarray]:
    """Return the calls of scanpy's tests."""
    import scanpy as sc

    cells = anndata.AnnData(adata.X.copy(), obs=adata.obs[["cluster"]].copy(), var=adata.var[[]].copy())
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    sc.tl.rank_genes_groups(cells, "cluster", groups=[pair[0]], reference=pair[1], method=method)
    found = sc.get.rank_genes_groups_df(cells, pair[0]).set_index("names").reindex(adata.var_names)
    change = found["logfoldchanges"].abs().to_numpy() > delta
    return {level: (found["pvals_adj"].to_numpy() <= level) & change for level in LEVELS}


def scvi_model(adata: anndata.AnnData, seed: int, epochs: int) -> Any:
    """Train scVI with its defaults, but the negative binomial likelihood that the data have."""
    import scvi

    scvi.settings.seed, scvi.settings.verbosity = seed, logging.ERROR
    cells = anndata.AnnData(adata.X.copy(), obs=adata.obs[["cluster", "batch"]].copy(), var=adata.var[[]].copy())
    scvi.model.SCVI.setup_anndata(cells, batch_key="batch")
    model = scvi.model.SCVI(cells, gene_likelihood="nb")
    model.train(max_epochs=epochs, accelerator="cpu", enable_progress_bar=False)
    return model


def table_of(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Average over seeds and pairs."""
    rows = []
    for design, method in dict.fromkeys((run["design"], run["method"]) for run in runs):
        row: dict[str, Any] = {"design": design, "method": method}
        for level in LEVELS:
            these = [r for r in runs if (r["design"], r["method"], r["level"]) == (design, method, level)]
            row["runs"] = len(these)
            for key in ("fdp", "power"):
                values = np.array([run[key] for run in these])
                row[f"{key}@{level}"] = values.mean()
                row[f"{key}_se@{level}"] = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
        rows.append(row)
    return rows


def print_table(table: list[dict[str, Any]]) -> None:
    """Print one column per nominal level."""
    head = "".join(f"{f'FDP at {level}':>16}" for level in LEVELS) + "".join(
        f"{f'power at {level}':>16}" for level in LEVELS
    )
    print(f"{'design':<9}{'method':<11}{'runs':>5}{head}")
    for row in table:
        cells = [
            f"{row[f'{key}@{level}']:.3f} ({row[f'{key}_se@{level}']:.3f})"
            for key in ("fdp", "power")
            for level in LEVELS
        ]
        print(f"{row['design']:<9}{row['method']:<11}{row['runs']:>5}" + "".join(f"{cell:>16}" for cell in cells))


def measure_memory(options: argparse.Namespace) -> dict[str, Any]:
    """Compare two large groups with a model of a few steps, and return the peak memory of this process."""
    from vaekit.analysis import differential_expression, normalized_expression
    from vaekit.data import simulate_counts

    cells, genes = (3_000, 300) if options.quick else (100_000, 2_000)
    adata = simulate_counts(cells, genes, batches=3, library_size=500, seed=0)
    model = trained(adata, 0, 1, limit_train_batches=20, limit_val_batches=0)
    before = peak_gb()
    started = time.perf_counter()
    differential_expression(adata, model, "cluster", "cluster0", batch_key="batch", num_samples=1)
    middle = time.perf_counter()
    normalized_expression(adata, model, genes=list(adata.var_names[:20]), transform_batch="batch0", batch_key="batch")
    return {
        "cells": cells,
        "genes": genes,
        "density": adata.X.nnz / cells / genes,
        "peak_gb": peak_gb(),
        "before_gb": before,
        "de_seconds": middle - started,
        "normalized_seconds": time.perf_counter() - middle,
    }


def peak_gb() -> float:
    """Return the largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


if __name__ == "__main__":
    sys.exit(main())
