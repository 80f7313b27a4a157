"""Part (d) of credit_assignment.py: held-out bounds of the sequential discrete VAE, by the estimator that trains it.

The models are the ones of configs/digits_sequential.yaml and configs/pbmc_sequential.yaml: categories, each of which
depends on all before it, on four joint samples. Only the estimator differs, and the seed, of which weights, order
of the data and draws come; the split is the same. What a latent is charged with:

  leave-one-out           the cost of its trajectory from there on, less the mean of the other trajectories'
  critic                  the lambda-return with critics of the later latents, less its own critic's prediction
  critic, leave-one-out   the same, less the mean of the other trajectories'
  Gumbel-Softmax          nothing: the gradient of the cost at relaxed values (straight-through), which is biased

The bounds are the evidence lower bound and the importance-weighted log-likelihood of the test rows, both on discrete
values; the evidence lower bound of the training rows next to them reports what was optimised from what carries over.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
import yaml
from tqdm.auto import tqdm

import vaekit.data
import vaekit.likelihoods
from vaekit import SequentialVAE
from vaekit.diagnostics import importance_sampled_log_likelihood
from vaekit.estimators import Critic, Estimator, GumbelSoftmax, LeaveOneOut, ScoreFunction
from vaekit.models.objectives import ELBO
from vaekit.networks import MLP

CONFIGS = Path(__file__).parents[2] / "configs"
LAM = 0.95
METHODS: dict[str, Callable[[], Estimator]] = {
    "leave-one-out": lambda: ScoreFunction(baseline=LeaveOneOut()),
    "critic": lambda: ScoreFunction(critic=Critic(MLP([64])), lam=LAM),
    "critic, leave-one-out": lambda: ScoreFunction(baseline=LeaveOneOut(), critic=Critic(MLP([64])), lam=LAM),
    "Gumbel-Softmax": lambda: GumbelSoftmax(hard=True),
}
DATA = ("digits", "pbmc")
SAMPLES = 200  # importance samples per row


class Bounds(NamedTuple):
    """Of one training, means in nats: over the test rows, and the evidence lower bound over the training rows."""

    elbo: float
    log_likelihood: float
    train_elbo: float


def trained(data_name: str, estimator: Estimator, seed: int, epochs: int | None) -> tuple[SequentialVAE, Any]:
    """Train the model of a config with another estimator; return it, in evaluation mode, and the data."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    config = yaml.safe_load((CONFIGS / f"{data_name}_sequential.yaml").read_text())
    data_class = config["data"]["class_path"].rpartition(".")[2]
    data = getattr(vaekit.data, data_class)(**config["data"]["init_args"])
    given = config["model"]["init_args"]
    kept = {name: given[name] for name in ("categories", "hidden", "dropout", "learning_rate", "weight_decay")}
    pl.seed_everything(seed, verbose=False)
    model = SequentialVAE(
        data.features,
        getattr(vaekit.likelihoods, given["likelihood"]["class_path"])(),
        estimator=estimator,
        objective=ELBO(**given["objective"]["init_args"]),
        **kept,
    )
    trainer = pl.Trainer(
        max_epochs=epochs or config["trainer"]["max_epochs"], accelerator="cpu", logger=False,
        enable_checkpointing=False, enable_model_summary=False, enable_progress_bar=False, num_sanity_val_steps=0,
        gradient_clip_val=config["trainer"]["gradient_clip_val"], limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(model, datamodule=data)
    return model.eval(), data


def bounds(data_name: str, estimator: Estimator, seed: int, epochs: int | None) -> Bounds:
    """Train a model and evaluate it."""
    model, data = trained(data_name, estimator, seed, epochs)
    torch.manual_seed(0)
    found = importance_sampled_log_likelihood(model, data.dataloader("test"), SAMPLES)
    train = importance_sampled_log_likelihood(model, data.dataloader("train"), SAMPLES // 10)
    return Bounds(found.elbo.mean().item(), found.mean(), train.elbo.mean().item())


def variances(epochs: int, replicates: int) -> list[dict[str, Any]]:
    """Return a line for each way to charge a latent: the variance of the gradient by the posteriors' own parameters.

    At one and the same model, and its critics, trained a while on the digits, on one batch; summed over components.
    """
    model, data = trained("digits", METHODS["critic, leave-one-out"](), 0, epochs)
    batch = next(iter(data.dataloader("test")))
    critics = {name: latent.estimator.critic for name, latent in model.latents.items()}
    own = ("head", "joining")
    parameters = [p for latent in model.latents.values() for n, p in latent.named_parameters() if n.startswith(own)]
    torch.manual_seed(0)
    lines = []
    for compared in (False, True):
        for lam in (None, 1.0, LAM, 0.5):
            for name, latent in model.latents.items():
                baseline = LeaveOneOut() if compared else None
                critic = None if lam is None else critics[name]
                latent.estimator = ScoreFunction(
                    baseline=baseline, critic=critic, lam=1.0 if lam is None else lam
                ).eval()
            gradients = []
            for _ in tqdm(range(replicates), desc=f"leave-one-out {compared}, lambda {lam}", leave=False):
                found = torch.autograd.grad(model.loss(batch, training=True).total.mean(), parameters)
                gradients.append(torch.cat([gradient.flatten() for gradient in found]))
            variance = torch.stack(gradients).double().var(0).sum().item()
            lines.append({"leave_one_out": compared, "lam": lam, "variance": variance})
    return lines


def table(seeds: int, epochs: int | None) -> list[dict[str, Any]]:
    """Return a line for each data set and method: means over seeds and their standard errors, and each run's."""
    lines = []
    with tqdm(total=len(DATA) * len(METHODS) * seeds, desc="(d)", unit="training") as bar:
        for data in DATA:
            runs: dict[str, list[Bounds]] = {method: [] for method in METHODS}
            for seed in range(seeds):
                for method, make in METHODS.items():
                    runs[method].append(bounds(data, make(), seed, epochs))
                    bar.update()
                    bar.write(f"{data}, {method}, seed {seed}: {runs[method][-1]}", file=bar.fp)
            lines += [{"data": data, "method": method, **_summary(found)} for method, found in runs.items()]
    return lines


def _summary(runs: list[Bounds]) -> dict[str, Any]:
    """Return the mean of each figure, its standard error (None for a single training), and the figures."""
    summary: dict[str, Any] = {}
    for name, column in zip(Bounds._fields, np.array(runs).T, strict=True):
        summary[name] = column.mean().item()
        summary[f"{name}_se"] = (column.std(ddof=1) / len(runs) ** 0.5).item() if len(runs) > 1 else None
        summary[f"{name}_runs"] = column.tolist()
    return summary
