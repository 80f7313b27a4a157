"""Transfer of cell types from a reference to cells of other technologies: accuracy, and whether errors are uncertain.

Both files hold counts in X and cell types in obs. The methods see the genes that both have; the labels of the query
only score them. Where the files name types differently, names are harmonized by the tables below; query cells whose
type the reference lacks are transferred, but not scored.

vaekit       `vaekit fit` on the reference, `map_query`, `transfer_labels`
no map       the same model without mapping: the query cells count as reference cells
PCA + kNN    30 components of log-normalized reference counts; 15 neighbors, weighted by their number only
scANVI       scVI and scANVI at their defaults on the reference, then surgery by `load_query_data` (scArches): 100
             epochs without weight decay, as in scvi-tools' tutorial (needs the extra "benchmark")

"AUROC" is the probability that a wrong label is more uncertain than a right one. Uncertainties are 1 minus the
probability (vaekit: weight; kNN: fraction of neighbors) of the label. Progress goes to stderr, the table to stdout.
The last line of stdout is one JSON object with the same figures.

Lopez et al. (2018), Deep generative modeling for single-cell transcriptomics. Xu et al. (2021), Probabilistic
harmonization and annotation of single-cell transcriptomics data with deep generative models. Lotfollahi et al. (2022),
Mapping single-cell data to reference atlases by transfer learning.
"""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import anndata
import numpy as np
from anndata import AnnData

CONFIG = Path(__file__).parents[2] / "configs" / "pbmc_gaussian.yaml"
LABEL = "harmonized_type"
NAMES = {  # of the blood cells in the project's shared data, by the types that several sets distinguish
    "CD4 T": ["Naive CD4 T", "Memory CD4 T", "CD4TCM", "CD4TN", "CD4Treg", "T_CD4"],
    "CD8 T": ["CD8TN", "T_CD8"],
    "CD14+ monocyte": ["CD14+ Mono", "Mono_CD14"],
    "FCGR3A+ monocyte": ["FCGR3A+ Mono", "Mono_CD16"],
    "platelet": ["Platelet", "MK"],
    "monocyte": ["Monocyte"],
}
COARSE = {"CD14+ monocyte": "monocyte", "FCGR3A+ monocyte": "monocyte"}  # if one of the sets has the coarse type
NUM_NEIGHBORS, NUM_COMPONENTS, SURGERY_EPOCHS = 15, 30, 100


class Transfer(NamedTuple):
    """Labels of the query cells, and the uncertainty of each."""

    labels: np.ndarray
    uncertainty: np.ndarray


def main(arguments: list[str] | None = None) -> int:
    """Run the comparison and print it."""
    options = read_arguments(arguments)
    warnings.filterwarnings("ignore")
    reference, query = load_pair(options.reference, options.query, options.label_key)
    known = np.isin(query.obs[LABEL], reference.obs[LABEL].unique())
    about = {
        "reference": Path(options.reference).name, "query": Path(options.query).name, "genes": reference.n_vars,
        "reference_cells": reference.n_obs, "query_cells": query.n_obs, "scored_cells": int(known.sum()),
        "types": sorted(reference.obs[LABEL].unique()),
    }  # fmt: skip
    rows: list[dict[str, Any]] = []
    for seed in options.seeds:
        for method in options.methods:
            started = time.perf_counter()
            for name, transfer in METHODS[method](reference, query, seed, options).items():
                seconds = time.perf_counter() - started
                rows.append({"method": name, "seed": seed, **score(transfer, query, known), "seconds": seconds})
                print("{method}, seed {seed}: accuracy {accuracy:.4f}".format(**rows[-1]), file=sys.stderr, flush=True)
    print_table(about, rows)
    print(json.dumps({**about, "rows": rows}))
    return 0


def read_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line; ``--quick`` overrides what takes long."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("reference", metavar="REF.h5ad", help="labeled cells")
    add("query", metavar="QUERY.h5ad", help="cells to label; their labels score the result")
    add("--quick", action="store_true", help="a smoke test: 1 seed, few epochs; its figures mean nothing")
    add("--label_key", default="cell_type", help="column of obs with the cell types, in both files (cell_type)")
    add("--batch_key", default="batch", help="column of obs with the batch, in each file that has it (batch)")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N", help="seeds (0 1 2)")
    add("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="methods (all)")
    add("--config", type=Path, default=CONFIG, help="configuration of vaekit fit (pbmc_gaussian)")
    add("--fit", default="", metavar="FLAGS", help="further flags of vaekit fit, in one string: '--model.dropout 0.1'")
    options = parser.parse_args(arguments)
    if options.quick:
        options.seeds = options.seeds[:1]
    for path in (options.reference, options.query, options.config):
        if not Path(path).is_file():
            parser.error(f"{path} not found")
    return options


def load_pair(reference_path: str, query_path: str, label_key: str) -> tuple[AnnData, AnnData]:
    """Return both sets with the genes that they share and harmonized labels."""
    reference, query = (anndata.read_h5ad(path) for path in (reference_path, query_path))
    shared = reference.var_names[reference.var_names.isin(query.var_names)]
    reference, query = reference[:, shared].copy(), query[:, shared].copy()
    common = {name: kind for kind, names in NAMES.items() for name in names}
    labels = [cells.obs[label_key].astype(str).replace(common) for cells in (reference, query)]
    coarse = {kind: whole for kind, whole in COARSE.items() if any((values == whole).any() for values in labels)}
    for cells, values in zip((reference, query), labels, strict=True):
        cells.obs[LABEL] = values.replace(coarse).astype("category")
        cells.X = cells.X.astype(np.float32)
    return reference, query


def score(transfer: Transfer, query: AnnData, known: np.ndarray) -> dict[str, float | None]:
    """Return accuracy, its mean over types, and the AUROC of the uncertainty for errors (None without any error)."""
    from sklearn.metrics import roc_auc_score

    truth = query.obs[LABEL].to_numpy(str)[known]
    is_right = transfer.labels[known] == truth
    auroc = None if is_right.all() else float(roc_auc_score(~is_right, transfer.uncertainty[known]))
    by_type = [is_right[truth == kind].mean() for kind in np.unique(truth)]
    return {"accuracy": float(is_right.mean()), "balanced": float(np.mean(by_type)), "auroc": auroc}


def ours(reference: AnnData, query: AnnData, seed: int, options: argparse.Namespace) -> dict[str, Transfer]:
    """Train by the command line, as a user would, and transfer labels with and without mapping."""
    import vaekit
    from vaekit.analysis import map_query

    query = query.copy()
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/reference.h5ad"
        reference.write_h5ad(path)
        command = [sys.executable, "-m", "vaekit.cli.main", "fit", "--config", str(options.config)]
        command += ["--data.path", path, "--data.label_key", LABEL, "--data.seed", str(seed)]
        command += ["--data.batch_key", options.batch_key] if options.batch_key in reference.obs else []
        command += ["--seed_everything", str(seed), "--trainer.default_root_dir", folder]
        command += ["--trainer.logger", "CSVLogger", *shlex.split(options.fit)]
        command += ["--trainer.max_epochs", "2"] if options.quick else []
        subprocess.run(command, check=True, stdout=sys.stderr)
        model = vaekit.load(f"{folder}/last.ckpt")
    unmapped = query.copy()
    unmapped.obs[options.batch_key] = next(iter(model.data_registry["batch_categories"]), "reference")
    batch_key = options.batch_key if options.batch_key in query.obs else None
    mapped = map_query(query, model, batch_key=batch_key, max_steps=20 if options.quick else None, seed=seed)
    return {"vaekit": _transfer(reference, query, mapped), "no map": _transfer(reference, unmapped, model)}


def _transfer(reference: AnnData, query: AnnData, model: Any) -> Transfer:
    from vaekit.analysis import transfer_labels

    transfer_labels(reference, query, model, LABEL, key_added="result")
    return Transfer(query.obs["result"].to_numpy(str), query.obs["result_uncertainty"].to_numpy())


def pca(reference: AnnData, query: AnnData, seed: int, options: argparse.Namespace) -> dict[str, Transfer]:
    """Vote among the nearest reference cells in the space of the reference's principal components."""
    import scanpy as sc
    from sklearn.decomposition import PCA
    from sklearn.neighbors import KNeighborsClassifier

    logs = []
    for cells in (reference, query):
        normalized = cells.copy()
        sc.pp.normalize_total(normalized, target_sum=1e4)
        sc.pp.log1p(normalized)
        logs.append(normalized.X.toarray())
    components = PCA(NUM_COMPONENTS, random_state=seed).fit(logs[0])
    voters = KNeighborsClassifier(NUM_NEIGHBORS).fit(components.transform(logs[0]), reference.obs[LABEL].to_numpy(str))
    return {"PCA + kNN": most_probable(voters.predict_proba(components.transform(logs[1])), voters.classes_)}


def scanvi(reference: AnnData, query: AnnData, seed: int, options: argparse.Namespace) -> dict[str, Transfer]:
    """Train scVI and scANVI on the reference, and map the query by scArches surgery."""
    import scvi

    scvi.settings.seed, scvi.settings.verbosity = seed, logging.ERROR
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    cells = []
    for part, name in ((reference, "reference"), (query, "query")):
        cells.append(part.copy())
        cells[-1].obs["scanvi_batch"] = part.obs.get(options.batch_key, name)
        cells[-1].obs["scanvi_label"] = part.obs[LABEL].astype(str) if part is reference else "unknown"
    quiet = {"enable_progress_bar": False, "accelerator": "cpu"}
    epochs = [2, 2, 2] if options.quick else [None, None, SURGERY_EPOCHS]
    scvi.model.SCVI.setup_anndata(cells[0], batch_key="scanvi_batch", labels_key="scanvi_label")
    base = scvi.model.SCVI(cells[0])
    base.train(max_epochs=epochs[0], **quiet)
    model = scvi.model.SCANVI.from_scvi_model(base, unlabeled_category="unknown")
    model.train(max_epochs=epochs[1], **quiet)
    mapped = scvi.model.SCANVI.load_query_data(cells[1], model)
    mapped.train(max_epochs=epochs[2], plan_kwargs={"weight_decay": 0.0}, **quiet)
    table = mapped.predict(soft=True)
    return {"scANVI": most_probable(table.to_numpy(), table.columns.to_numpy(str))}


def most_probable(probabilities: np.ndarray, names: np.ndarray) -> Transfer:
    """Return the most probable label of each cell."""
    return Transfer(names[probabilities.argmax(1)].astype(str), 1 - probabilities.max(1))


METHODS: dict[str, Callable[[AnnData, AnnData, int, argparse.Namespace], dict[str, Transfer]]] = {
    "vaekit": ours, "pca": pca, "scanvi": scanvi
}  # fmt: skip


def print_table(about: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Print means over seeds, with the lowest and highest value."""
    print("{reference} ({reference_cells} cells) -> {query} ({query_cells} cells, {scored_cells} of the reference's "
          "types), {genes} genes".format(**about))  # fmt: skip
    print(f"{'':<12}{'accuracy':>10}{'(range)':>18}{'balanced':>10}{'AUROC':>8}{'(range)':>16}{'seconds':>9}")
    for method in dict.fromkeys(row["method"] for row in rows):
        of = [row for row in rows if row["method"] == method]
        accuracy, balanced, seconds = ([row[key] for row in of] for key in ("accuracy", "balanced", "seconds"))
        auroc = [row["auroc"] for row in of if row["auroc"] is not None] or [float("nan")]
        spread = f"({min(accuracy):.3f} to {max(accuracy):.3f})"
        print(f"{method:<12}{np.mean(accuracy):>10.4f}{spread:>18}{np.mean(balanced):>10.3f}{np.mean(auroc):>8.3f}"
              f"{f'({min(auroc):.2f} to {max(auroc):.2f})':>16}{np.mean(seconds):>9.0f}")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
