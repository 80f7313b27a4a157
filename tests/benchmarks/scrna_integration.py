"""Batch integration and clusters: PCA, Harmony, scVI and vaekit's configurations on the same cells.

Each embedding of all cells is scored by scib-metrics with its default metrics, not rescaled (Luecken et al. 2022,
Benchmarking atlas-level data integration in single-cell genomics). Data without batches have "Bio conservation" only.
Leiden clusters (scanpy: 15 neighbors, igraph) are compared with the cell types by ARI and NMI, at resolution 1 and at
the best of the resolutions .1, .2, ..., 2 by NMI. The number of clusters depends on the scale of the embedding, so
resolution 1 alone is not a fair comparison. Codes of a discrete latent are compared with the cell types, too. Labels
choose the best resolution and are used for nothing else.

scVI is trained by its own .train() at its defaults on all cells. vaekit is trained by its command line on four fifths
of them; "log p(x)" is its importance-sampled log-likelihood of the test cells, in nats per cell. Needs the extra
"benchmark". Progress, with each row as JSON, goes to stderr, tables (means over seeds, standard deviation in
parentheses) to stdout, and the last line of stdout is one JSON object with all values of each seed.

  python tests/benchmarks/scrna_integration.py pbmc3k.h5ad three_technologies.h5ad --cache embeddings
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import anndata
import integration_embeddings
import numpy as np
from integration_embeddings import DataSet, Embedding
from shipped_runs import CONFIGS
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from vaekit.analysis.scib import BIO, CORRECTION, TOTAL, scib_scores

RESOLUTIONS = [round(0.1 * k, 1) for k in range(1, 21)]
AGREEMENTS = ("leiden 1", "best leiden", "codes")
SUMMARY = (TOTAL, BIO, CORRECTION, *(f"{name} {score}" for name in AGREEMENTS for score in ("ARI", "NMI")), "log p(x)")


def main(arguments: list[str] | None = None) -> int:
    """Run the comparison and print it."""
    options = read_arguments(arguments)
    rows: list[dict[str, Any]] = []
    for path in options.data:
        data = open_data(path, options)
        for seed in options.seeds:
            rows += compare(data, seed, options)
        print_tables([row for row in rows if row["data"] == path.stem], path.stem)
    print(json.dumps({"seeds": options.seeds, "rows": rows}))
    return 0


def read_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line; ``--quick`` overrides what takes long."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("data", nargs="+", type=Path, metavar="DATA.h5ad", help="files with counts in X and cell types in obs")
    add("--quick", action="store_true", help="smoke test: 1 seed, 5 epochs; its numbers mean nothing")
    add("--batch_key", default="batch", help="column of obs with the batch, if a file has it (batch)")
    add("--label_key", default="cell_type", help="column of obs with the cell type (cell_type)")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N", help="seeds (0 1 2)")
    add(
        "--configs", nargs="*", type=Path, metavar="YAML",
        default=[CONFIGS / f"pbmc_{name}.yaml" for name in ("clusters", "gaussian", "mixed")],
        help="configurations of vaekit fit (pbmc_clusters, pbmc_gaussian and pbmc_mixed)",
    )  # fmt: skip
    add(
        "--peers", nargs="*", choices=["Harmony", "scVI"], default=["Harmony", "scVI"], metavar="NAME",
        help="methods besides PCA (Harmony scVI)",
    )  # fmt: skip
    add("--fit", default="", metavar="FLAGS", help="further flags of vaekit fit, in one string: '--model.dropout 0.1'")
    add("--cache", type=Path, metavar="DIR", help="directory that keeps the embeddings of PCA, Harmony and scVI")
    options = parser.parse_args(arguments)
    options.epochs = None
    if options.quick:
        options.seeds, options.epochs = options.seeds[:1], 5
    if missing := [str(path) for path in [*options.data, *options.configs] if not path.is_file()]:
        parser.error(f"file not found: {', '.join(missing)}")
    if options.cache is not None:
        options.cache.mkdir(parents=True, exist_ok=True)
    return options


def open_data(path: Path, options: argparse.Namespace) -> DataSet:
    """Read a file; stop if it does not have cell types."""
    cells = anndata.read_h5ad(path)
    if options.label_key not in cells.obs:
        raise SystemExit(f"label_key={options.label_key!r} not found in .obs of {path}: {', '.join(cells.obs)}")
    batch_key = options.batch_key if options.batch_key in cells.obs else None
    return DataSet(path, cells, options.label_key, batch_key)


def compare(data: DataSet, seed: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Compute and score all embeddings of one seed."""
    embeddings = integration_embeddings.peers(data, seed, options.peers, options.cache, options.epochs)
    for config in options.configs:
        embeddings[config.stem] = integration_embeddings.ours(config, data, seed, options.fit, options.epochs)
    values = {name: embedding.values for name, embedding in embeddings.items()}
    scores = scib_scores(values, values["PCA"], data.labels, data.batches)
    rows = []
    for name, embedding in embeddings.items():
        row = {"data": data.path.stem, "model": name, "seed": seed, **scores.loc[name].to_dict()}
        rows.append({**row, **agreements(embedding, data.labels)})
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return rows


def agreements(embedding: Embedding, labels: np.ndarray) -> dict[str, Any]:
    """Return the agreement of clusters and codes with the labels, and the log-likelihood if there is one."""
    clusters = leiden(embedding.values)
    tried = {each: agreement("best leiden", clusters[each], labels) for each in RESOLUTIONS}
    best = max(tried, key=lambda each: tried[each]["best leiden NMI"])
    row = {**agreement("leiden 1", clusters[1.0], labels), **tried[best], "best resolution": best}
    if embedding.codes is not None:
        row |= agreement("codes", embedding.codes, labels)
    if embedding.log_likelihood is not None:
        row["log p(x)"] = embedding.log_likelihood
    return row


def leiden(values: np.ndarray) -> dict[float, np.ndarray]:
    """Return leiden clusters at each resolution."""
    import scanpy as sc

    cells = anndata.AnnData(np.asarray(values, dtype=np.float32))
    sc.pp.neighbors(cells, use_rep="X", n_neighbors=15)
    clusters = {}
    for resolution in RESOLUTIONS:
        sc.tl.leiden(cells, resolution=resolution, flavor="igraph", n_iterations=2, directed=False)
        clusters[resolution] = cells.obs["leiden"].to_numpy(str)
    return clusters


def agreement(name: str, clusters: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Return ARI, NMI and the number of clusters."""
    return {
        f"{name} ARI": float(adjusted_rand_score(labels, clusters)),
        f"{name} NMI": float(normalized_mutual_info_score(labels, clusters)),
        f"{name} clusters": len(np.unique(clusters)),
    }


def print_tables(rows: list[dict[str, Any]], name: str) -> None:
    """Print the summary of a data set, then each metric of scib-metrics."""
    keys = list(rows[0])
    metrics = keys[keys.index("seed") + 1 : keys.index(BIO)]  # scib-metrics' own columns
    print(f"\n{name}\n")
    print_table(rows, [column for column in SUMMARY if any(column in row for row in rows)])
    print()
    print_table(rows, metrics)


def print_table(rows: list[dict[str, Any]], columns: list[str]) -> None:
    """Print one line per model: means over seeds, and standard deviations."""
    print("| | " + " | ".join(columns) + " |")
    print("|---|" + "---|" * len(columns))
    for model in dict.fromkeys(row["model"] for row in rows):
        cells = [summary([row[c] for row in rows if row["model"] == model and c in row]) for c in columns]
        print(f"| {model} | " + " | ".join(cells) + " |")


def summary(values: list[float]) -> str:
    """Return mean and standard deviation as text; values above 10 are log-likelihoods."""
    if not values:
        return ""
    digits = 1 if abs(values[0]) > 10 else 3
    spread = f" ({statistics.stdev(values):.{digits}f})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


if __name__ == "__main__":
    sys.exit(main())
