"""Choice of 2,000 genes by four rules: accuracy of predicted labels, and clusters of the latents without labels.

Files hold counts in X and cell types in obs. Rules rank genes over all cells:

log variance      vaekit's rule, the variance of log(1 + counts per 10,000)
seurat            scanpy's default, dispersion of the same values relative to genes of a similar mean
cell_ranger       the same with medians
pearson           variance of analytic Pearson residuals (scanpy.experimental)

"accuracy", "nll" and "ece" are those of `labels.py` for `vaekit.fit(cells, labels=...)` with 10 labels per type. "ari"
and "nmi" compare the cell types with leiden clusters on the latents of `vaekit.fit(cells)`, at the best of 20
resolutions.
Both train for 1,000 steps. The last line of stdout is one JSON object with the same figures.

Lause, Berens and Kobak (2021), Analytic Pearson residuals for normalization of single-cell RNA-seq UMI data. Satija et
al. (2015), Spatial reconstruction of single-cell gene expression data.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import warnings
from typing import Any

import anndata
import labels
import numpy as np
from anndata import AnnData
from scipy import sparse

RULES = ("log variance", "seurat", "cell_ranger", "pearson")
RESOLUTIONS = np.linspace(0.1, 2, 20)


def main(arguments: list[str] | None = None) -> int:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", metavar="CELLS.h5ad", help="cells with types")
    parser.add_argument("--quick", action="store_true", help="a smoke test with 1 draw and few steps")
    parser.add_argument("--label_key", default="cell_type", help="column of obs with the cell types (cell_type)")
    parser.add_argument("--num_genes", type=int, default=labels.NUM_GENES, metavar="N", help="number of genes (2000)")
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES), help="rules (all)")
    parser.add_argument(
        "--draws", nargs="+", type=int, default=[100, 101], metavar="N", help="draws and seeds (100 101)"
    )
    options = parser.parse_args(arguments)
    options.steps, options.batch_key = 20 if options.quick else labels.NUM_STEPS, "batch"
    options.draws = options.draws[:1] if options.quick else options.draws
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    cells = anndata.read_h5ad(options.cells)
    cells.X = sparse.csr_matrix(cells.X, dtype=np.float32)
    rows = []
    for rule in options.rules:
        chosen = cells[:, choose_genes(cells, rule, options.num_genes)].copy()
        for draw in options.draws:
            rows.append({"rule": rule, "draw": draw, **measure(chosen, draw, options)})
            numbers = ", ".join(f"{name} {value:.3f}" for name, value in rows[-1].items() if isinstance(value, float))
            print(f"{rule}, draw {draw}: {numbers}", flush=True)
    print(json.dumps({"cells": cells.n_obs, "genes": options.num_genes, "rows": rows}))
    return 0


def choose_genes(cells: AnnData, rule: str, number: int) -> np.ndarray:
    """Return the sorted columns of the genes that a rule ranks first."""
    import scanpy as sc

    from vaekit.data.cells.genes import highly_variable_genes

    if rule == "log variance":
        return highly_variable_genes(cells.X, number, "the cells")
    expressed = np.flatnonzero(cells.X.getnnz(axis=0))
    cells = cells[:, expressed].copy()
    if rule == "pearson":
        find, column = sc.experimental.pp.highly_variable_genes, "residual_variances"
        table = find(cells, flavor="pearson_residuals", n_top_genes=number, inplace=False)
    else:
        column = "dispersions_norm"
        table = sc.pp.highly_variable_genes(labels.log_normalized(cells), flavor=rule, inplace=False)
    values = np.nan_to_num(table[column].to_numpy(float), nan=-np.inf)
    return np.sort(expressed[np.argsort(-values, kind="stable")[:number]])


def measure(cells: AnnData, draw: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return the scores of predicted labels and of clusters."""
    types = cells.obs[options.label_key].to_numpy(str)
    cells = cells.copy()
    cells.obs[labels.KNOWN] = labels.draw_labels(types, 10, draw)
    result = labels.vaekit_labels(cells, None, draw, options)
    scores = labels.score(result, types, cells.obs[labels.KNOWN].to_numpy(str) == "Unknown")
    return {**scores, **best_clusters(cells, types, draw, options.steps)}


def best_clusters(cells: AnnData, types: np.ndarray, seed: int, steps: int) -> dict[str, float]:
    """Return the highest agreement of leiden clusters on the latents with the types, for each of two scores."""
    import scanpy as sc
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    import vaekit

    model = vaekit.fit(cells, max_steps=steps, seed=seed, progress=False)
    vaekit.analysis.embed(cells, model)
    sc.pp.neighbors(cells, use_rep="X_vaekit")
    scores = []
    for resolution in RESOLUTIONS:
        sc.tl.leiden(cells, resolution, flavor="igraph", n_iterations=2, directed=False, random_state=0)
        pair = types, cells.obs["leiden"].to_numpy(str)
        scores.append((adjusted_rand_score(*pair), normalized_mutual_info_score(*pair)))
    ari, nmi = np.max(scores, axis=0)
    return {"ari": float(ari), "nmi": float(nmi)}


if __name__ == "__main__":
    sys.exit(main())
