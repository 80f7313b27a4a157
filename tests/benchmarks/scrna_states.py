"""States of cells: agreement with cell types, of seeds, and with a seed that took no part, against leiden.

Models of one configuration are trained with several seeds by the command line; their split of the cells is the same.
The first three (--models) give the states by vaekit.analysis.states. Every further seed takes no part. The same
function with as many states finds the states of its model alone. Labels are never used to find states. The best leiden
on the same latents uses them: of the resolutions .1, .2, .. 2, it has the highest NMI. Its numbers are means of the
models.

Columns: number of states; ARI and NMI with the cell types; mean pairwise ARI of the models, each alone with the shared
components ("agreement"), and of separate searches in each model for as many states ("separate"); mean ARI of the states
with those of each further seed ("other seed"); the lowest stability of a state; leiden; log-likelihood of held-out
cells in nats; and the types with at least 5 % of the cells that are the majority in no state.

``--ablate`` also trains variants without one step of the recipe. Progress goes to stderr, tables to stdout, and the
last line of stdout is one JSON object with the same figures.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shlex
import sys
import warnings
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import shipped_runs
import torch
from shipped_runs import CONFIGS
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

RESOLUTIONS = [round(0.1 * k, 1) for k in range(1, 21)]
MIN_FRACTION = 0.05  # of the cells; smaller types need not be a state
COLUMNS = {
    "states": "states", "ARI": "ari", "NMI": "nmi", "agreement": "agreement", "separate": "separate",
    "other seed": "other_seed", "min stability": "min_stability", "leiden ARI": "leiden_ari",
    "leiden NMI": "leiden_nmi", "leiden agreement": "leiden_agreement", "nats": "log_likelihood",
}  # fmt: skip
NUM_SAMPLES = 200  # of the importance-sampled log-likelihood
HEAD = "{class_path: Categorical, init_args: {categories: 20, learned_prior: true}}"
ABLATION = {
    "": "",
    "without a start": "--model.latents.y.init_args.start_fraction 0",
    "head instead of closed form": f"--model.latents.y '{HEAD}'",
    "encoder with batch": "--model.encoder_covariates true",
    "standard normal prior": "--model.latents '{z: {class_path: Gaussian, init_args: {dim: 20}}}'",
}


def main(arguments: list[str] | None = None) -> int:
    """Train, find the states and print the tables."""
    options = read_arguments(arguments)
    variants = ABLATION if options.ablate else {"": ABLATION[""]}
    rows = []
    for path, (variant, flags) in itertools.product(options.data, variants.items()):
        row = {"data": Path(path).stem, "variant": variant, **measure(path, flags, options)}
        rows.append(row)
        print(f"{row['data']} {variant}: {row['states']} states, ARI {row['ari']:.3f}", file=sys.stderr)
    print_table(rows, options)
    print(json.dumps({"seeds": options.seeds, "models": options.models, "config": str(options.config), "rows": rows}))
    return 0


def read_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line; ``--quick`` overrides the number of steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("data", nargs="+", metavar="DATA.h5ad", help="counts in X, cell types in obs")
    add("--quick", action="store_true", help="a smoke test: 60 steps; its figures mean nothing")
    add("--label_key", default="cell_type", help="column of obs with the cell type (cell_type)")
    add("--batch_key", default="batch", help="column of obs with the batch, for files that have it (batch)")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2, 3], metavar="N", help="seeds of the models (0 1 2 3)")
    add("--models", type=int, default=3, help="number of the seeds whose models give the states (3)")
    add("--config", type=Path, default=CONFIGS / "pbmc_states.yaml", help="configuration (pbmc_states)")
    add("--fit", default="", metavar="FLAGS", help="further flags of vaekit fit, in one string")
    add("--ablate", action="store_true", help="train each variant of the recipe, too")
    add("--runs", type=Path, default=Path("runs/scrna_states"), help="directory of the runs; finished ones are reused")
    options = parser.parse_args(arguments)
    if options.quick:
        options.fit += " --trainer.max_steps 60"
    if options.models > len(options.seeds):
        parser.error("--models is more than the number of --seeds")
    return options


def measure(path: str, flags: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train the models of one file, and return the figures of their states."""
    from vaekit.analysis import states

    warnings.simplefilter("ignore")
    adata = anndata.read_h5ad(path)
    types = adata.obs[options.label_key].to_numpy(str)
    batch_key = options.batch_key if options.batch_key in adata.obs else None
    checkpoints = [train(path, seed, flags, batch_key, options) for seed in options.seeds]
    models = checkpoints[: options.models]
    found = states(adata, models)
    codes, number = np.asarray(found.codes.codes), len(found.states)
    own = [codes_of(adata, [checkpoint], number) for checkpoint in checkpoints]
    agreement = found.agreement.loc[found.agreement["chosen"], "agreement"].item()
    pairs = list(zip(models, options.seeds, strict=False))
    clusters = [best_leiden(adata, checkpoint, seed, types) for checkpoint, seed in pairs]
    others = [value for value in own[options.models :] if value is not None]
    return {
        "states": number,
        "components": len(found.tree) + 1,
        "ari": adjusted_rand_score(types, codes),
        "nmi": normalized_mutual_info_score(types, codes),
        "agreement": agreement,
        "separate": pairwise([value for value in own[: options.models] if value is not None]),
        "other_seed": float(np.mean([adjusted_rand_score(codes, value) for value in others])) if others else None,
        "num_other_seeds": len(others),
        "min_stability": float(found.states["stability"].min()),
        "stability": [round(float(value), 3) for value in found.states["stability"]],
        "curve": [round(float(value), 3) for value in found.agreement["agreement"]],
        "types_without_state": uncovered(codes, types),
        "leiden_ari": float(np.mean([adjusted_rand_score(types, c) for c in clusters])),
        "leiden_nmi": float(np.mean([normalized_mutual_info_score(types, c) for c in clusters])),
        "leiden_agreement": pairwise(clusters),
        "log_likelihood": float(np.mean([held_out_log_likelihood(checkpoint, seed) for checkpoint, seed in pairs])),
    }


def train(path: str, seed: int, flags: str, batch_key: str | None, options: argparse.Namespace) -> Path:
    """Train one model by the command line unless its run is finished, and return its checkpoint."""
    variant = "".join(c if c.isalnum() else "_" for c in f"{options.fit} {flags}".strip()) or "default"
    run = options.runs / options.config.stem / variant / Path(path).stem / f"seed_{seed}"
    if not (run / "finished").exists():
        data = ["--data.path", path, "--data.seed", "0", *(["--data.batch_key", batch_key] if batch_key else [])]
        shipped_runs.fit(options.config, run, seed, *data, *shlex.split(options.fit), *shlex.split(flags))
        (run / "finished").touch()
    return run / "last.ckpt"


def held_out_log_likelihood(checkpoint: Path, seed: int) -> float:
    """Return the mean log-likelihood of the test cells, in nats per cell."""
    import vaekit
    from vaekit.analysis import load_training_data
    from vaekit.diagnostics import importance_sampled_log_likelihood

    model = vaekit.load(checkpoint)
    torch.manual_seed(seed)
    test_cells = load_training_data(model).dataloader("test")
    return float(importance_sampled_log_likelihood(model, test_cells, NUM_SAMPLES).mean())


def codes_of(adata: anndata.AnnData, checkpoints: list[Path], number: int) -> np.ndarray | None:
    """Return the states of one model alone; None if it has fewer components."""
    from vaekit.analysis import states
    from vaekit.exceptions import DataError

    try:
        return np.asarray(states(adata.copy(), checkpoints, num_states=number).codes.codes)
    except DataError:
        return None


def best_leiden(adata: anndata.AnnData, checkpoint: Path, seed: int, types: np.ndarray) -> np.ndarray:
    """Return the leiden clusters on a model's latents with the highest NMI of all resolutions."""
    import scanpy as sc

    from vaekit.analysis import embed

    cells = adata.copy()
    embed(cells, checkpoint)
    sc.pp.neighbors(cells, use_rep="X_vaekit", random_state=seed)
    tried = []
    for resolution in RESOLUTIONS:
        sc.tl.leiden(cells, resolution=resolution, random_state=seed, flavor="igraph", n_iterations=2, directed=False)
        tried.append(cells.obs["leiden"].to_numpy(str))
    return max(tried, key=lambda clusters: normalized_mutual_info_score(types, clusters))


def pairwise(codes: list[np.ndarray]) -> float:
    """Return the mean ARI of all pairs."""
    from vaekit.analysis.state_agreement import mean_pairwise_ari

    return mean_pairwise_ari(codes)


def uncovered(codes: np.ndarray, types: np.ndarray) -> list[str]:
    """Return the frequent types that are the majority in no state."""
    majorities = set()
    for code in np.unique(codes):
        names, counts = np.unique(types[codes == code], return_counts=True)
        majorities.add(names[counts.argmax()])
    names, counts = np.unique(types, return_counts=True)
    return [str(name) for name in names[counts >= MIN_FRACTION * len(types)] if name not in majorities]


def print_table(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Print a line per file and variant."""
    print(f"seeds {options.seeds}, states of the first {options.models}")
    print(f"{'':<32}" + "".join(f"{title:>17}" for title in COLUMNS) + "   types without a state")
    for row in rows:
        numbers = [row[key] for key in COLUMNS.values()]
        cells = "".join(f"{'-' if value is None else f'{value:.3g}':>17}" for value in numbers)
        print(f"{row['data'] + ' ' + row['variant']:<32}{cells}   {', '.join(row['types_without_state']) or '-'}")


if __name__ == "__main__":
    sys.exit(main())
