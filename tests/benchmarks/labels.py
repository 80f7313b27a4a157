"""Labels that are known for some cells: accuracy, calibration, types without labels, and cells of other technologies.

Files hold counts in X and cell types in obs. A draw of labels chooses cells of each type at random, whose labels all
methods may use; the other cells score them. All methods see the 2,000 genes whose log-normalized counts vary most.

vaekit    `vaekit.fit(cells, labels=...)` with 1,000 steps, `predict_labels`. A fifth of the labels is held out for the
          calibration; the others train
kNN       the same network without labels (GaussianVAE, 1,000 steps), 5 neighbors among the labeled cells
logistic  scikit-learn's LogisticRegression at its defaults on log-normalized counts
scANVI    scVI and scANVI at their defaults (needs the extra "benchmark"; slow)

Tasks: "few" (--num_labels per type), "novel" (one type without labels, for each type: AUROC of the novelty for its
cells, and the fraction of them called unknown if max_novelty=1, next to that of the other cells), and "map" with --map
QUERY.h5ad (all labels of the file; types are harmonized as in scrna_mapping.py). ECE has 15 bins. The last line of
stdout is one JSON object with the same figures.

Kingma, Rezende, Mohamed and Welling (2014), Semi-supervised Learning with Deep Generative Models. Xu et al. (2021),
Probabilistic harmonization and annotation of single-cell transcriptomics data with deep generative models.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import anndata
import numpy as np
import scrna_mapping
from anndata import AnnData

KNOWN = "known_type"  # column with the labels of a draw
NUM_STEPS, NUM_GENES, NUM_NEIGHBORS, NUM_BINS = 1000, 2000, 5, 15
TRAINED: dict[tuple[str, int], Any] = {}  # models without labels, by method and seed


class Result(NamedTuple):
    """Probability of each type by name, and scores of the cells, by name ("uncertainty", "novelty")."""

    probabilities: np.ndarray
    names: np.ndarray
    scores: dict[str, np.ndarray]


def main(arguments: list[str] | None = None) -> int:
    """Run the tasks and print their tables."""
    options = read_arguments(arguments)
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    cells, rows = load(options.cells, options.label_key), []
    types = cells.obs["type"].to_numpy(str)
    for draw in options.draws:
        for count in options.num_labels if "few" in options.tasks else ():
            cells.obs[KNOWN] = draw_labels(types, count, draw)
            rows += [few(name, cells, draw, options, count) for name in options.methods]
        for hidden in np.unique(types) if "novel" in options.tasks else ():
            cells.obs[KNOWN] = draw_labels(types, options.num_labels[0], draw, hidden)
            rows.append(novel(cells, draw, options, hidden))
        if options.map:
            rows += [map_labels(name, draw, options) for name in options.methods if name in ("vaekit", "scANVI")]
    print_tables(rows)
    print(json.dumps({"cells": cells.n_obs, "genes": cells.n_vars, "rows": rows}))
    return 0


def read_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line; ``--quick`` overrides what takes long."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("cells", metavar="CELLS.h5ad", help="cells with types")
    add("--quick", action="store_true", help="a smoke test: 1 draw, few steps; its figures mean nothing")
    add("--map", metavar="QUERY.h5ad", help="cells of other technologies")
    add("--label_key", default="cell_type", help="column of obs with the cell types (cell_type)")
    add("--batch_key", default="batch", help="column of obs with the batch, in each file that has it (batch)")
    add("--num_labels", nargs="+", type=int, default=[10], metavar="N", help="labels per type (10)")
    add("--draws", nargs="+", type=int, default=[0, 1, 2], metavar="N", help="draws of labels, and seeds (0 1 2)")
    add("--tasks", nargs="*", choices=["few", "novel"], default=["few"], help="tasks (few)")
    add("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="methods (all)")
    options = parser.parse_args(arguments)
    options.steps = 20 if options.quick else NUM_STEPS
    options.draws = options.draws[:1] if options.quick else options.draws
    return options


def load(path: str, label_key: str) -> AnnData:
    """Return cells with the most variable genes and the column "type"."""
    cells = anndata.read_h5ad(path)
    cells.X = cells.X.astype(np.float32)
    if cells.n_vars > NUM_GENES:
        logs = log_normalized(cells).X
        variance = np.asarray(logs.multiply(logs).mean(0) - np.square(logs.mean(0))).ravel()
        cells = cells[:, np.sort(np.argsort(-variance)[:NUM_GENES])].copy()
    cells.obs["type"] = cells.obs[label_key].astype(str)
    return cells


def log_normalized(cells: AnnData) -> AnnData:
    """Return a copy with log(1 + counts per 10,000)."""
    import scanpy as sc

    copy = cells.copy()
    sc.pp.normalize_total(copy, target_sum=1e4)
    sc.pp.log1p(copy)
    return copy


def draw_labels(types: np.ndarray, count: int, draw: int, hidden: str | None = None) -> np.ndarray:
    """Return the types of ``count`` random cells of each type except for ``hidden``; "Unknown" elsewhere."""
    rng, known = np.random.default_rng(draw), np.full(len(types), "Unknown", dtype=object)
    for name in np.unique(types):
        chosen = rng.permutation(np.flatnonzero(types == name))[:count]
        known[chosen] = "Unknown" if name == hidden else name
    return known


def vaekit_labels(cells: AnnData, query: AnnData | None, seed: int, options: argparse.Namespace) -> Result:
    """Train a model with the labels, and predict those of the query or of the cells themselves."""
    import vaekit

    batch_key = options.batch_key if query is not None and options.batch_key in cells.obs else None
    model = vaekit.fit(cells, labels=KNOWN, batch_key=batch_key, max_steps=options.steps, seed=seed, progress=False)
    target = cells.copy() if query is None else query.copy()
    if query is not None:
        key = options.batch_key if options.batch_key in query.obs else None
        model = vaekit.analysis.map_query(target, model, batch_key=key, max_steps=min(500, options.steps), seed=seed)
    vaekit.analysis.predict_labels(target, model, training_data=cells, key_added="result")
    scores = {name: target.obs[f"result_{name}"].to_numpy() for name in ("uncertainty", "novelty")}
    return Result(target.obsm["result_probabilities"], np.array(model.label_names), scores)


def neighbors(cells: AnnData, query: AnnData | None, seed: int, options: argparse.Namespace) -> Result:
    """Train without labels, and let the nearest labeled cells vote in latent space."""
    from sklearn.neighbors import KNeighborsClassifier

    import vaekit

    model = unlabeled_model("kNN", seed, lambda: vaekit.fit(cells, max_steps=options.steps, seed=seed, progress=False))
    target = cells.copy()
    vaekit.analysis.embed(target, model)
    known = target.obs[KNOWN].to_numpy(str) != "Unknown"
    voters = KNeighborsClassifier(NUM_NEIGHBORS).fit(target.obsm["X_vaekit"][known], target.obs[KNOWN][known])
    return confidence(voters.predict_proba(target.obsm["X_vaekit"]), voters.classes_)


def logistic(cells: AnnData, query: AnnData | None, seed: int, options: argparse.Namespace) -> Result:
    """Fit a logistic regression to the log-normalized counts of the labeled cells."""
    from sklearn.linear_model import LogisticRegression

    x, labels = log_normalized(cells).X, cells.obs[KNOWN].to_numpy(str)
    model = LogisticRegression(max_iter=1000).fit(x[labels != "Unknown"], labels[labels != "Unknown"])
    return confidence(model.predict_proba(x), model.classes_)


def scanvi(cells: AnnData, query: AnnData | None, seed: int, options: argparse.Namespace) -> Result:
    """Train scVI, then scANVI, at their defaults."""
    import scvi

    scvi.settings.verbosity = logging.ERROR
    quiet = {"enable_progress_bar": False, "accelerator": "cpu"} | ({"max_epochs": 2} if options.steps < 100 else {})
    cells = cells.copy()

    def train_scvi() -> Any:
        scvi.settings.seed = seed
        scvi.model.SCVI.setup_anndata(cells)
        base = scvi.model.SCVI(cells)
        base.train(**quiet)
        return base

    base = unlabeled_model("scANVI", seed, train_scvi)
    scvi.settings.seed = seed
    model = scvi.model.SCANVI.from_scvi_model(base, unlabeled_category="Unknown", labels_key=KNOWN, adata=cells)
    model.train(**quiet)
    table = model.predict(soft=True)
    return confidence(table.to_numpy(), table.columns.to_numpy(str))


def unlabeled_model(name: str, seed: int, train: Callable[[], Any]) -> Any:
    """Return the model without labels that a method starts from; it is trained once for all numbers of labels."""
    if (name, seed) not in TRAINED:
        TRAINED[name, seed] = train()
    return TRAINED[name, seed]


def confidence(probabilities: np.ndarray, names: np.ndarray) -> Result:
    """Return a result whose uncertainty is 1 minus the probability of the most probable label."""
    return Result(probabilities, np.asarray(names, str), {"uncertainty": 1 - probabilities.max(1)})


METHODS: dict[str, Callable[[AnnData, AnnData | None, int, argparse.Namespace], Result]] = {
    "vaekit": vaekit_labels, "kNN": neighbors, "logistic": logistic, "scANVI": scanvi
}  # fmt: skip


def few(name: str, cells: AnnData, draw: int, options: argparse.Namespace, count: int) -> dict[str, Any]:
    """Return the scores of a method on the cells without a label."""
    started = time.perf_counter()
    result = METHODS[name](cells, None, draw, options)
    unlabeled = cells.obs[KNOWN].to_numpy(str) == "Unknown"
    row = {"task": f"{count} labels per type", "method": name, "draw": draw}
    return report({**row, **score(result, cells.obs["type"].to_numpy(str), unlabeled)}, started)


def novel(cells: AnnData, draw: int, options: argparse.Namespace, hidden: str) -> dict[str, Any]:
    """Return how well the novelty finds the cells of a type without labels."""
    from sklearn.metrics import roc_auc_score

    started = time.perf_counter()
    novelty = vaekit_labels(cells, None, draw, options).scores["novelty"]
    unlabeled = cells.obs[KNOWN].to_numpy(str) == "Unknown"
    is_new, novelty = (cells.obs["type"].to_numpy(str) == hidden)[unlabeled], novelty[unlabeled]
    row = {"task": f"{hidden} without labels", "method": "vaekit", "draw": draw}
    found = {"recall": float((novelty > 1)[is_new].mean()), "unknown": float((novelty > 1)[~is_new].mean())}
    at_5 = float((novelty[is_new] > np.quantile(novelty[~is_new], 0.95)).mean())
    return report({**row, "auroc": float(roc_auc_score(is_new, novelty)), **found, "recall_at_5": at_5}, started)


def map_labels(name: str, draw: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return the scores of a method that learns all labels of the cells on the cells of the query."""
    started = time.perf_counter()
    reference, query = scrna_mapping.load_pair(options.cells, options.map, options.label_key)
    reference.obs[KNOWN] = reference.obs[scrna_mapping.LABEL].astype(str)
    truth = query.obs[scrna_mapping.LABEL].to_numpy(str)
    known = np.isin(truth, reference.obs[KNOWN].unique())
    if name == "vaekit":
        result = vaekit_labels(reference, query, draw, options)
    else:
        options.quick = options.steps < 100
        transfer = scrna_mapping.scanvi(reference, query, draw, options)["scANVI"]
        names = np.unique(reference.obs[KNOWN].to_numpy(str))
        result = Result((transfer.labels[:, None] == names).astype(float), names, {"uncertainty": transfer.uncertainty})
    return report({"task": "mapping", "method": name, "draw": draw, **score(result, truth, known)}, started)


def score(result: Result, truth: np.ndarray, scored: np.ndarray) -> dict[str, float]:
    """Return accuracy, negative log-likelihood, calibration error, and the AUROC of the uncertainty for errors."""
    from sklearn.metrics import roc_auc_score

    probabilities, truth = result.probabilities[scored], truth[scored]
    is_right = result.names[probabilities.argmax(1)] == truth
    right = (probabilities * (result.names == truth[:, None])).sum(1)
    confidence = probabilities.max(1)
    bins = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
    groups = [bins == i for i in np.unique(bins)]
    gaps = [abs(confidence[group].mean() - is_right[group].mean()) * group.mean() for group in groups]
    return {
        "accuracy": float(is_right.mean()),
        "nll": float(-np.log(np.maximum(right, 1e-12)).mean()),
        "ece": float(np.sum(gaps)),
        "auroc": float(roc_auc_score(~is_right, result.scores["uncertainty"][scored])),
    }


def report(row: dict[str, Any], started: float) -> dict[str, Any]:
    """Return a row with its time, and print it to stderr."""
    row = {**row, "seconds": time.perf_counter() - started}
    print(", ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), file=sys.stderr)
    return row


def print_tables(rows: list[dict[str, Any]]) -> None:
    """Print the mean over draws of each task and method, with the lowest and highest value."""
    for task in dict.fromkeys(row["task"] for row in rows):
        print(task)
        for method in dict.fromkeys(row["method"] for row in rows if row["task"] == task):
            of = [row for row in rows if (row["task"], row["method"]) == (task, method)]
            names = [name for name in of[0] if name not in ("task", "method", "draw")]
            values = {name: [row[name] for row in of] for name in names}
            cells = [f"{name} {np.mean(v):.3f} ({min(v):.3f} to {max(v):.3f})" for name, v in values.items()]
            print(f"  {method:<9} {', '.join(cells)}")


if __name__ == "__main__":
    sys.exit(main())
