"""Batch integration and clusters: PCA, scVI and vaekit's models on the same cells.

First table: metrics of batch integration (see integration_metrics.py) of each embedding of all cells, trained with
the batch as a covariate where the method takes one. Second table: agreement with the cell types of leiden clusters
(scanpy) on each embedding, and of the codes of a model with a discrete latent. How many clusters leiden makes follows
from its resolution, whose scale is another one for each embedding: they are shown at the resolution given, and at that
of .1, .2, .. 2 which agrees best (by NMI), as scIB has it (Luecken et al. 2022, Benchmarking atlas-level data
integration in single-cell genomics). But for that choice labels are never used, and nothing is trained on them.

scVI is trained by its own .train() at its defaults, on all cells; vaekit by its command line, on four fifths of them
(a tenth is for validation, a tenth for the test). Needs the extra "benchmark" (scvi-tools, flax). Progress goes to
stderr, tables to stdout, and the last line of stdout is one JSON object with the same figures.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from integration_metrics import CONSERVATION, CORRECTION, integration
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

CONFIGS = Path(__file__).parents[2] / "configs"
TOTALS = ("conservation", "correction", "overall")
RESOLUTIONS = [round(0.1 * k, 1) for k in range(1, 21)]


class Embedding(NamedTuple):
    """An embedding of all cells, and codes (strings) where the model has a discrete latent."""

    x: np.ndarray
    codes: np.ndarray | None = None


def main(arguments: list[str] | None = None) -> int:
    """Run the comparison and print it."""
    options = read_arguments(arguments)
    import anndata
    import scvi_reference

    scvi_reference.quiet()
    adata = anndata.read_h5ad(options.data)
    for key in (options.batch_key, options.label_key):
        if key not in adata.obs:
            raise SystemExit(f"{options.data} has no column {key!r} in .obs; it has {', '.join(adata.obs)}")
    rows = []
    for seed in options.seeds:
        before = pca(adata, seed)
        contenders = {"PCA": before, "scVI": scvi(adata, seed, options)}
        contenders |= {config.stem: ours(config, seed, options) for config in options.configs}
        labels, batches = (adata.obs[key].to_numpy(str) for key in (options.label_key, options.batch_key))
        for name, embedding in contenders.items():
            row = {"model": name, "seed": seed, **integration(embedding.x, before.x, labels, batches, seed)}
            graph = neighbours(embedding.x, seed)
            row |= agreement("leiden", leiden(graph, seed, options.resolution), labels)
            tried = [agreement("best leiden", leiden(graph, seed, each), labels) for each in RESOLUTIONS]
            row |= max(tried, key=lambda found: found["best leiden NMI"])
            if embedding.codes is not None:
                row |= agreement("codes", embedding.codes, labels)
            rows.append(row)
            print(f"{name}, seed {seed}: overall {row['overall']:.3f}", file=sys.stderr)
    print_tables(rows, options)
    print(json.dumps({"data": Path(options.data).name, "resolution": options.resolution, "rows": rows}))
    return 0


def read_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line; ``--quick`` overrides what takes long."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("data", metavar="DATA.h5ad", help="counts in X, batches and cell types in obs")
    add("--quick", action="store_true", help="a smoke test: 1 seed, 5 epochs; its figures mean nothing")
    add("--batch_key", default="batch", help="column of obs with the batch (batch)")
    add("--label_key", default="cell_type", help="column of obs with the cell type (cell_type)")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N", help="seeds (0 1 2)")
    add("--resolution", type=float, default=1.0, help="of leiden (1)")
    add(
        "--configs",
        nargs="+",
        type=Path,
        default=[CONFIGS / "pbmc_gaussian.yaml", CONFIGS / "pbmc_mixed.yaml"],
        metavar="YAML",
        help="configurations of vaekit fit (pbmc_gaussian and pbmc_mixed)",
    )
    add("--fit", default="", metavar="FLAGS", help="further flags of vaekit fit, in one string: '--model.dropout 0.1'")
    options = parser.parse_args(arguments)
    options.epochs = None
    if options.quick:
        options.seeds, options.epochs = options.seeds[:1], 5
    if missing := [str(path) for path in [Path(options.data), *options.configs] if not path.is_file()]:
        parser.error(f"no such file: {', '.join(missing)}")
    return options


def pca(adata: Any, seed: int) -> Embedding:
    """Return 30 principal components of the log-normalized counts."""
    import scanpy as sc

    cells = adata.copy()
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    sc.pp.pca(cells, n_comps=30, random_state=seed)
    return Embedding(cells.obsm["X_pca"])


def scvi(adata: Any, seed: int, options: argparse.Namespace) -> Embedding:
    """Train scVI at its defaults, the batch as its batch."""
    import scvi

    scvi.settings.seed = seed
    cells = adata.copy()
    cells.X = cells.X.astype(np.float32)
    scvi.model.SCVI.setup_anndata(cells, batch_key=options.batch_key)
    model = scvi.model.SCVI(cells, gene_likelihood="nb")
    model.train(max_epochs=options.epochs, enable_progress_bar=False, accelerator="cpu")
    return Embedding(model.get_latent_representation())


def ours(config: Path, seed: int, options: argparse.Namespace) -> Embedding:
    """Train and embed by the command line, as a user would; its output goes to stderr."""
    import anndata

    command = [sys.executable, "-m", "vaekit.cli.main"]
    with tempfile.TemporaryDirectory() as folder:
        fit = ["fit", "--config", str(config), "--data.path", options.data, "--data.batch_key", options.batch_key]
        fit += ["--data.label_key", options.label_key, "--data.seed", str(seed), "--seed_everything", str(seed)]
        fit += ["--trainer.default_root_dir", folder, "--trainer.logger", "CSVLogger"]
        fit += shlex.split(options.fit)
        if options.epochs is not None:
            fit += ["--trainer.max_epochs", str(options.epochs)]
        out = f"{folder}/embedded.h5ad"
        for part in (fit, ["embed", f"{folder}/last.ckpt", "-o", out]):
            subprocess.run(command + part, check=True, stdout=sys.stderr)
        cells = anndata.read_h5ad(out)
    codes = cells.obs["vaekit_y"].to_numpy(str) if "vaekit_y" in cells.obs else None
    return Embedding(np.asarray(cells.obsm["X_vaekit"]), codes)


def neighbours(x: np.ndarray, seed: int) -> Any:
    """Return the cells with scanpy's graph of 15 neighbors."""
    import anndata
    import scanpy as sc

    cells = anndata.AnnData(x)
    sc.pp.neighbors(cells, use_rep="X", random_state=seed)
    return cells


def leiden(cells: Any, seed: int, resolution: float) -> np.ndarray:
    """Return leiden's clusters on a graph of cells."""
    import scanpy as sc

    sc.tl.leiden(cells, resolution=resolution, random_state=seed, flavor="igraph", n_iterations=2, directed=False)
    return cells.obs["leiden"].to_numpy(str)


def agreement(name: str, clusters: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Return ARI, NMI and the number of clusters."""
    return {
        f"{name} ARI": float(adjusted_rand_score(labels, clusters)),
        f"{name} NMI": float(normalized_mutual_info_score(labels, clusters)),
        f"{name} clusters": len(np.unique(clusters)),
    }


def print_tables(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Print the means over seeds."""
    models = list(dict.fromkeys(row["model"] for row in rows))

    def mean(model: str, name: str) -> float:
        return statistics.mean(row[name] for row in rows if row["model"] == model)

    print(f"{Path(options.data).name}: batch integration, means over {len(options.seeds)} seeds, higher is better")
    print(f"{'':<20}" + "".join(f"{model:>16}" for model in models))
    for name in (*CONSERVATION, *CORRECTION, *TOTALS):
        print(f"{name:<20}" + "".join(f"{mean(model, name):>16.3f}" for model in models))
    print(f"\nclusters against {options.label_key}, means over seeds")
    print(f"{'':<36}{'ARI':>8}{'NMI':>8}{'clusters':>10}")
    for model in models:
        titles = {"leiden": f"leiden {options.resolution:g} on", "best leiden": "best leiden on", "codes": "codes of"}
        for kind, title in titles.items():
            if any(f"{kind} ARI" in row for row in rows if row["model"] == model):
                ari, nmi, number = (mean(model, f"{kind} {what}") for what in ("ARI", "NMI", "clusters"))
                print(f"{title + ' ' + model:<36}{ari:>8.3f}{nmi:>8.3f}{number:>10.1f}")


if __name__ == "__main__":
    sys.exit(main())
