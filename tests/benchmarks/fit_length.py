"""``vaekit.fit`` compared with 2,500 steps of the packaged configurations, as of ``vaekit fit --config``.

Both train the same recipe on the same split, which is another one per seed. ``vaekit.fit`` chooses the number of steps
by the number of cells, may end early, and returns the weights of the best validation. The configuration ends with its
last step.

  python tests/benchmarks/fit_length.py FILES                  seeds 0, 1 and 2; latents="gaussian"
  python tests/benchmarks/fit_length.py FILES --latents mixed

Files have counts in .X, and the columns cell_type and batch in .obs, if any. Columns of the table: steps of training,
CPU seconds of training and validation, ELBO of the test cells in nats per cell, and for labeled cells the best
agreement of Leiden clusters with the cell types over the resolutions 0.25, 0.5, 1 and 2 (NMI, ARI).
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytorch_lightning as pl
import scanpy as sc
import torch
from anndata import AnnData
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

import vaekit
from vaekit._core.components import from_config
from vaekit.callbacks.recipes import RECIPES, read_recipe
from vaekit.models import VAE

RESOLUTIONS = (0.25, 0.5, 1, 2)


class StepCounter(pl.Callback):
    """Number of training steps of a run."""

    steps = 0

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        self.steps = trainer.global_step


def train_configured(adata: AnnData, latents: str, seed: int, keys: dict[str, str], counter: StepCounter) -> VAE:
    """Train the recipe for as many steps as its configuration states."""
    config = read_recipe(latents)
    pl.seed_everything(seed, verbose=False)
    data = vaekit.data.GeneExpressionData(adata, batch_size=config["data"]["init_args"]["batch_size"], **keys)
    arguments = {**config["model"]["init_args"], "features": data.features, "covariates": data.covariates}
    model = from_config({**config["model"], "init_args": arguments})
    steps, clip = config["trainer"]["max_steps"], config["trainer"]["gradient_clip_val"]
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    quiet |= {"enable_model_summary": False, "num_sanity_val_steps": 0}
    pl.Trainer(max_steps=steps, gradient_clip_val=clip, callbacks=[counter], **quiet).fit(model, datamodule=data)
    return model.eval()


def test_elbo(adata: AnnData, model: VAE, keys: dict[str, str]) -> float:
    """Return the ELBO of the test cells in nats per cell."""
    data = vaekit.data.GeneExpressionData(adata, **keys)
    torch.manual_seed(0)
    with torch.no_grad():
        losses = [model.loss(batch).total for batch in data.dataloader("test", 256)]
    return -torch.cat(losses).mean().item()


def cluster_scores(adata: AnnData, model: VAE) -> dict[str, float]:
    """Return the best NMI and ARI of Leiden clusters with the cell types."""
    if "cell_type" not in adata.obs:
        return {}
    cells = adata.copy()
    vaekit.analysis.embed(cells, model)
    sc.pp.neighbors(cells, use_rep="X_vaekit", random_state=0)
    scores: dict[str, list[float]] = {"NMI": [], "ARI": []}
    for resolution in RESOLUTIONS:
        sc.tl.leiden(cells, resolution, flavor="igraph", n_iterations=2, directed=False, random_state=0)
        pair = cells.obs["cell_type"], cells.obs["leiden"]
        scores["NMI"].append(normalized_mutual_info_score(*pair))
        scores["ARI"].append(adjusted_rand_score(*pair))
    return {name: max(values) for name, values in scores.items()}


def spread(values: list[float]) -> float:
    """Return the standard deviation, or 0 for one value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def main(arguments: list[str] | None = None) -> int:
    """Train both ways, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--latents", choices=RECIPES, default="gaussian")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N")
    options = parser.parse_args(arguments)
    for file in options.files:
        adata = anndata.read_h5ad(file)
        keys = {"batch_key": "batch"} if "batch" in adata.obs else {}
        rows: dict[str, list[dict[str, float]]] = {"configuration": [], "vaekit.fit": []}
        for seed in options.seeds:
            cells = adata[np.random.default_rng(seed).permutation(adata.n_obs)].copy()  # another split per seed
            for name, results in rows.items():
                counter, start = StepCounter(), time.process_time()
                if name == "configuration":
                    model = train_configured(cells, options.latents, seed, keys, counter)
                else:
                    settings: dict[str, Any] = {**keys, "accelerator": "cpu", "progress": False}
                    model = vaekit.fit(cells, options.latents, seed=seed, callbacks=[counter], **settings)
                row = {"steps": counter.steps, "CPU s": time.process_time() - start}
                results.append(row | {"ELBO": test_elbo(cells, model, keys)} | cluster_scores(cells, model))
                print(f"{file.stem} {name} seed {seed}: {results[-1]}", flush=True)
        for name, results in rows.items():
            columns = [f"{statistics.fmean(r[key] for r in results):.3f} ({spread([r[key] for r in results]):.3f})"
                     for key in results[0]]  # fmt: skip
            print(f"| {file.stem} | {options.latents} | {name} | " + " | ".join(columns) + " |", flush=True)
        pairs = zip(rows["vaekit.fit"], rows["configuration"], strict=True)
        gains = [fit["ELBO"] - configured["ELBO"] for fit, configured in pairs]
        print(f"{file.stem} {options.latents}: ELBO of vaekit.fit minus configuration: {gains}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
