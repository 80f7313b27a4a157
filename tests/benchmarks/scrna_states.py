"""States of cells: agreement with cell types, with other seeds, and with a left-out seed, against leiden.

Models of one configuration are trained with several seeds by the command line; their split of the cells is the same.
The first three (--models) give the states by vaekit.analysis.states. Every further seed is left out: it gives states
of its own, by the same function with as many states. Labels are never used to find states. The best leiden on the
same latents uses them: of the resolutions .1, .2, .. 2, it has the highest NMI.

Rows per file: number of states, ARI and NMI with the cell types, mean pairwise ARI of the three models (each alone with
the shared components), the same of three separate searches for as many states, the mean ARI of the left-out seeds'
states, the lowest stability, the types with at least 5 % of the cells that are the majority in no state, and leiden.

Needs configurations of models with a Gaussian latent. Progress goes to stderr, tables to stdout, and the last line of
stdout is one JSON object with the same figures.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shlex
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import anndata
import numpy as np
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

CONFIGS = Path(__file__).parents[2] / "configs"
RESOLUTIONS = [round(0.1 * k, 1) for k in range(1, 21)]
MIN_FRACTION = 0.05  # of the cells; smaller types need not be a state
COLUMNS = {
    "states": "states", "ARI": "ari", "NMI": "nmi", "agreement": "agreement", "separate": "separate",
    "left-out": "left_out", "min stability": "min_stability", "leiden ARI": "leiden_ari", "leiden NMI": "leiden_nmi",
    "leiden agreement": "leiden_agreement",
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Train, find the states and print the tables."""
    options = read_arguments(arguments)
    variants = ABLATION if options.ablate else {"": ""}
    rows = []
    for path, (variant, flags) in itertools.product(options.data, variants.items()):
        row = {"data": Path(path).stem, "variant": variant, **measure(path, flags, options)}
        rows.append(row)
        print(f"{row['data']} {variant}: {row['states']} states, ARI {row['ari']:.3f}", file=sys.stderr)
    print_table(rows, options)
    print(json.dumps({"seeds": options.seeds, "models": options.models, "config": str(options.config), "rows": rows}))
    return 0


ABLATION: dict[str, str] = {"as configured": "", "encoder with batch": "--model.encoder_covariates true"}


def read_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line; ``--quick`` overrides the number of steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("data", nargs="+", metavar="DATA.h5ad", help="counts in X, cell types in obs")
    add("--quick", action="store_true", help="a smoke test: 60 steps; its figures mean nothing")
    add("--label_key", default="cell_type", help="column of obs with the cell type (cell_type)")
    add("--batch_key", default="batch", help="column of obs with the batch, for files that have it (batch)")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2, 3], metavar="N", help="seeds of the models (0 1 2 3)")
    add("--models", type=int, default=3, help="number of the seeds whose models give the states; the rest is left out")
    add("--config", type=Path, default=CONFIGS / "pbmc_gaussian.yaml", help="configuration (pbmc_gaussian)")
    add("--fit", default="", metavar="FLAGS", help="further flags of vaekit fit, in one string")
    add("--ablate", action="store_true", help="train each variant of the recipe, too")
    add("--runs", type=Path, default=Path("runs/scrna_states"), help="directory of the runs; finished ones are reused")
    options = parser.parse_args(arguments)
    if options.quick:
        options.fit += " --trainer.max_epochs -1 --trainer.max_steps 60"
    if options.models > len(options.seeds):
        parser.error("--models is more than the number of --seeds")
    return options


def measure(path: str, flags: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train the models of one file, and return the figures of their states."""
    from vaekit.analysis import states

    warnings.simplefilter("ignore")
    adata = anndata.read_h5ad(path)
    types = adata.obs[options.label_key].to_numpy(str)
    checkpoints = [train(path, seed, flags, "batch" in adata.obs, options) for seed in options.seeds]
    models, left_out = checkpoints[: options.models], checkpoints[options.models :]
    found = states(adata, models)
    codes, number = np.asarray(found.codes.codes), len(found.states)
    own = [codes_of(adata, [checkpoint], number) for checkpoint in checkpoints]
    agreement = found.agreement.loc[found.agreement["chosen"], "agreement"].item()
    clusters = [
        best_leiden(adata, checkpoint, seed, types) for checkpoint, seed in zip(models, options.seeds, strict=False)
    ]
    others = [value for value in own[options.models :] if value is not None]
    return {
        "states": number,
        "components": len(found.tree) + 1,
        "ari": adjusted_rand_score(types, codes),
        "nmi": normalized_mutual_info_score(types, codes),
        "agreement": agreement,
        "separate": pairwise([value for value in own[: options.models] if value is not None]),
        "left_out": float(np.mean([adjusted_rand_score(codes, value) for value in others])) if others else None,
        "num_left_out": f"{len(others)} of {len(left_out)}",
        "min_stability": float(found.states["stability"].min()),
        "stability": [round(float(value), 3) for value in found.states["stability"]],
        "curve": [round(float(value), 3) for value in found.agreement["agreement"]],
        "types_without_state": uncovered(codes, types),
        "leiden_ari": float(np.mean([adjusted_rand_score(types, c) for c in clusters])),
        "leiden_nmi": float(np.mean([normalized_mutual_info_score(types, c) for c in clusters])),
        "leiden_agreement": pairwise(clusters),
    }


def train(path: str, seed: int, flags: str, has_batch: bool, options: argparse.Namespace) -> Path:
    """Train one model by the command line unless its run is finished, and return its checkpoint."""
    name = "".join(c if c.isalnum() else "_" for c in f"{options.fit} {flags}".strip()) or "default"
    run = options.runs / options.config.stem / name / Path(path).stem / f"seed_{seed}"
    if not (run / "finished").exists():
        fit = ["fit", "--config", str(options.config), "--data.path", path, "--seed_everything", str(seed)]
        fit += ["--data.batch_key", options.batch_key] if has_batch else []
        fit += ["--trainer.default_root_dir", str(run), "--trainer.logger", "CSVLogger", "--overwrite"]
        fit += shlex.split(options.fit) + shlex.split(flags)
        subprocess.run([sys.executable, "-m", "vaekit.cli.main", *fit], check=True, stdout=sys.stderr)
        (run / "finished").touch()
    return run / "last.ckpt"


def codes_of(adata: anndata.AnnData, checkpoints: list[Path], number: int) -> np.ndarray | None:
    """Return states of their own, of one model; None if it has fewer components."""
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
