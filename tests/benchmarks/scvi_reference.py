"""scVI as a reference: trained by its own `.train()`, scored by importance sampling from its module's parts.

scVI's own `get_marginal_ll` is not used: it has been seen to disagree with the sum that it should compute.
Here log p(x | library) is computed from `inference` (posterior of z and library size) and `generative`
(distribution of the counts), which are the parts that scVI trains with.
"""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import anndata
import lightning.pytorch as lightning
import numpy as np
import scvi
import torch
from scipy import sparse
from scvi import REGISTRY_KEYS
from torch import Tensor
from torch.distributions import Distribution, Normal, StudentT

LogJoint = Callable[[Tensor], Tensor]
ROWS_PER_PASS = 4096  # cells times samples decoded at a time: bounds the memory


@dataclass(frozen=True)
class CellScores:
    """Scores of held-out cells, each float64 ``[cells]``, in nats.

    Attributes
    ----------
    log_likelihood
        Importance-sampled log p(x | library).
    elbo
        ELBO, from the same samples.
    ess
        Effective number of importance samples.
    refined, refined_ess
        Log-likelihood and effective number with the proposal of ``refine``, which is closer to the posterior. NaN if
        it was not requested.
    """

    log_likelihood: Tensor
    elbo: Tensor
    ess: Tensor
    refined: Tensor
    refined_ess: Tensor


@dataclass(frozen=True)
class Variant:
    """One way to train scVI; the fields are arguments of its `.train()`, at its defaults unless named.

    Attributes
    ----------
    early_stopping
        Stop when the ELBO of the validation cells has not improved for 45 epochs (scVI's patience).
    keep_best
        Return to the weights of the epoch with the best validation ELBO.
    kl_warmup
        Epochs in which the weight of the KL rises to 1; 400 is scVI's default.
    """

    name: str
    early_stopping: bool = False
    keep_best: bool = False
    kl_warmup: int = 400


DEFAULTS = (Variant("defaults"), Variant("early stopping", early_stopping=True))
TUNED = (
    Variant("KL warm-up 50", kl_warmup=50),
    Variant("KL warm-up 50, best epoch", kl_warmup=50, early_stopping=True, keep_best=True),
)


@dataclass(frozen=True)
class Fit:
    """A trained scVI model, how it was trained, and its mean log-likelihood on the validation cells."""

    model: scvi.model.SCVI
    variant: Variant
    epochs: int
    seconds: float
    validation: float = float("nan")


class KeepBest(lightning.Callback):
    """Restore, at the end of training, the weights with the lowest `elbo_validation` (a loss, in scVI)."""

    def __init__(self) -> None:
        self.best = float("inf")
        self.state: dict[str, Tensor] = {}

    def on_validation_epoch_end(self, trainer: lightning.Trainer, plan: lightning.LightningModule) -> None:
        """Copy the weights if this epoch is the best one so far."""
        loss = float(trainer.callback_metrics.get("elbo_validation", torch.inf))
        if not trainer.sanity_checking and loss < self.best:
            self.best = loss
            self.state = {k: v.detach().clone() for k, v in plan.module.state_dict().items()}

    def on_train_end(self, trainer: lightning.Trainer, plan: lightning.LightningModule) -> None:
        """Put the best weights back."""
        if self.state:
            plan.module.load_state_dict(self.state)


def quiet() -> None:
    """Silence the notices of scVI and Lightning that say nothing about the result."""
    scvi.settings.verbosity = logging.ERROR
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(scvi|lightning|anndata)(\..*)?")


def fit(
    counts: sparse.csr_matrix,
    train: np.ndarray,
    val: np.ndarray,
    *,
    seed: int,
    variant: Variant,
    max_epochs: int | None = None,
    gene_likelihood: str = "nb",
    n_latent: int = 10,
) -> Fit:
    """Train scVI on the rows `train` of `counts`, with the rows `val` as its validation cells.

    It is shown no other cell. Its library size is the sum of the genes given, as observed.
    `max_epochs` of None is scVI's own number for that many cells.
    """
    scvi.settings.seed = seed
    adata = anndata.AnnData(counts[np.concatenate([train, val])].astype(np.float32))
    scvi.model.SCVI.setup_anndata(adata)
    model = scvi.model.SCVI(adata, gene_likelihood=gene_likelihood, n_latent=n_latent)
    rows = np.arange(adata.n_obs)
    started = time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        model.train(
            max_epochs=max_epochs,
            early_stopping=variant.early_stopping,
            check_val_every_n_epoch=1 if variant.keep_best or variant.early_stopping else None,
            callbacks=[KeepBest()] if variant.keep_best else [],
            plan_kwargs={"n_epochs_kl_warmup": variant.kl_warmup},
            datasplitter_kwargs={
                "external_indexing": [rows[: len(train)], rows[len(train) :], rows[:0]],
                "drop_last": len(train) % 128 in (1, 2),  # batch normalization cannot train on one cell
            },
            enable_progress_bar=False,
        )
    return Fit(model, variant, model.trainer.current_epoch, time.perf_counter() - started)


def score(
    model: scvi.model.SCVI,
    counts: sparse.csr_matrix,
    rows: np.ndarray,
    *,
    num_samples: int = 1000,
    refine_steps: int = 0,
    seed: int = 0,
    cells_per_chunk: int = 32,
) -> CellScores:
    """Score the rows `rows` of `counts` with `num_samples` samples per cell, refined too if asked."""
    module = model.module.eval()
    device = next(module.parameters()).device
    chunks = []
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for first in range(0, len(rows), cells_per_chunk):
            chunk = counts[rows[first : first + cells_per_chunk]].toarray()
            x = torch.as_tensor(chunk, dtype=torch.float32, device=device)
            chunks.append(_score_cells(module, x, num_samples, refine_steps))
    return CellScores(*(torch.cat(parts).cpu() for parts in zip(*chunks, strict=True)))


def _score_cells(module: torch.nn.Module, x: Tensor, num_samples: int, refine_steps: int) -> list[Tensor]:
    """Return the five columns of ``CellScores`` for the cells `x` ``[cells, genes]``."""
    posterior, log_joint = parts(module, x)
    log_weight = log_weights(log_joint, posterior, num_samples)
    elbo = log_weight.mean(0)
    columns = [log_mean_exp(log_weight), elbo, effective_size(log_weight)]
    if not refine_steps:
        return [*columns, torch.full_like(elbo, torch.nan), torch.full_like(elbo, torch.nan)]
    log_weight = log_weights(log_joint, refine(log_joint, posterior, refine_steps), num_samples)
    return [*columns, log_mean_exp(log_weight), effective_size(log_weight)]


def parts(module: torch.nn.Module, x: Tensor) -> tuple[Normal, LogJoint]:
    """Take an scVI module apart: q(z | x) in float64, and log p(x, z | library) as a function of z.

    That function takes z ``[samples, cells, latent]`` and returns float64 ``[samples, cells]``. It lays the
    samples out as more cells, since scVI's batch normalization walks through a sample axis row by row.
    """
    batch = torch.zeros(len(x), 1, device=x.device)
    tensors = {REGISTRY_KEYS.X_KEY: x, REGISTRY_KEYS.BATCH_KEY: batch, REGISTRY_KEYS.LABELS_KEY: batch}
    with torch.no_grad():
        inferred = module.inference(**module._get_inference_input(tensors))
    library = inferred["library"]

    def log_joint(z: Tensor) -> Tensor:
        size = len(z)
        repeated = batch.repeat(size, 1)
        generated = module.generative(
            z=z.flatten(0, 1), library=library.repeat(size, 1), batch_index=repeated, y=repeated
        )
        log_p_x = generated["px"].log_prob(x.repeat(size, 1)).sum(-1, dtype=torch.float64)
        return log_p_x.unflatten(0, (size, len(x))) + Normal(0, 1).log_prob(z.double()).sum(-1)

    return Normal(inferred["qz"].loc.double(), inferred["qz"].scale.double()), log_joint


@torch.no_grad()
def log_weights(log_joint: LogJoint, proposal: Distribution, num_samples: int) -> Tensor:
    """Draw log importance weights log p(x, z) - log proposal(z), float64 ``[num_samples, cells]``."""
    per_pass = max(1, ROWS_PER_PASS // proposal.batch_shape[0])
    weights = []
    for first in range(0, num_samples, per_pass):
        size = min(per_pass, num_samples - first)
        z = proposal.sample((size,)).float()  # the decoder's precision; both densities are taken at this z
        weights.append(log_joint(z) - proposal.log_prob(z.double()).sum(-1))
    return torch.cat(weights)


def log_mean_exp(log_weight: Tensor) -> Tensor:
    """Return the log of the mean weight of each cell."""
    return log_weight.logsumexp(0) - math.log(len(log_weight))


def effective_size(log_weight: Tensor) -> Tensor:
    """Return the effective number of samples of each cell, from 1 to the number drawn."""
    return 1 / log_weight.softmax(0).square().sum(0)


def refine(log_joint: LogJoint, start: Normal, steps: int, draws: int = 8) -> StudentT:
    """Fit a proposal to each cell by itself: a Gaussian by its own ELBO, then made wider and heavier-tailed.

    An encoder's posterior is too narrow on cells that it was not trained on; then a few of the samples carry
    all the weight and the estimate of log p(x) stays below its value. The model is not changed.
    """
    location = start.loc.float().clone().requires_grad_()
    log_scale = start.scale.float().log().requires_grad_()
    optimizer = torch.optim.Adam([location, log_scale], lr=0.02)
    for _ in range(steps):
        noise = torch.randn(draws, *location.shape, device=location.device)
        energy = log_joint(location + log_scale.exp() * noise).mean(0) + log_scale.sum(-1)
        optimizer.zero_grad()
        (-energy.sum()).backward(inputs=[location, log_scale])
        optimizer.step()
    return StudentT(5.0, location.detach().double(), 1.2 * log_scale.detach().double().exp())


def best_fit(
    counts: sparse.csr_matrix,
    train: np.ndarray,
    val: np.ndarray,
    *,
    seed: int,
    num_samples: int,
    max_epochs: int | None = None,
    gene_likelihood: str = "nb",
    variants: tuple[Variant, ...] = DEFAULTS,
) -> Fit:
    """Train every variant and return the one with the highest mean log-likelihood on the validation cells."""
    fits = []
    for variant in variants:
        one = fit(
            counts,
            train,
            val,
            seed=seed,
            variant=variant,
            max_epochs=max_epochs,
            gene_likelihood=gene_likelihood,
        )
        scores = score(one.model, counts, val, num_samples=num_samples, seed=seed)
        one = replace(one, validation=float(scores.log_likelihood.mean()))
        print(
            f"scVI, {variant.name}, seed {seed}: {one.epochs} epochs, {one.seconds:.0f} s, "
            f"validation {one.validation:.2f} nats a cell",
            file=sys.stderr,
        )
        fits.append(one)
    return max(fits, key=lambda one: one.validation)
