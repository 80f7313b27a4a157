"""Data and models of a few numbers, shared by the tests of models, diagnostics, analysis and callbacks."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from anndata import AnnData
from scipy import sparse
from torch.utils.data import DataLoader

from vaekit import DiscreteVAE, GaussianVAE, MixedVAE, SequentialVAE
from vaekit.batch import Batch
from vaekit.estimators import (
    Critic,
    Enumerate,
    GumbelSoftmax,
    LearnedBaseline,
    LeaveOneOut,
    MovingAverage,
    Pathwise,
    ScoreFunction,
    SelfCritic,
    StraightThrough,
)
from vaekit.latents import (
    Bernoulli,
    Categorical,
    Dirichlet,
    Flow,
    FlowPrior,
    Gamma,
    Gaussian,
    GaussianMixture,
    MixtureComponent,
    StudentT,
    VampPrior,
)
from vaekit.likelihoods import Bernoulli as BernoulliLikelihood
from vaekit.likelihoods import Gaussian as GaussianLikelihood
from vaekit.likelihoods import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from vaekit.models import VAE
from vaekit.networks import MLP

FEATURES = 5
COUNT_LIKELIHOODS = (NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial)
LIKELIHOODS = (*COUNT_LIKELIHOODS, BernoulliLikelihood, GaussianLikelihood)

DISCRETE_ESTIMATORS: dict[str, Callable[[], Any]] = {
    "score": ScoreFunction,
    "score_2": lambda: ScoreFunction(num_samples=2),
    "moving_average": lambda: ScoreFunction(baseline=MovingAverage()),
    "leave_one_out": lambda: ScoreFunction(num_samples=3, baseline=LeaveOneOut()),
    "learned": lambda: ScoreFunction(baseline=LearnedBaseline(MLP([4]))),
    "self_critic": lambda: ScoreFunction(baseline=SelfCritic()),
    "enumerate": Enumerate,
    "gumbel_soft": GumbelSoftmax,
    "gumbel_hard": lambda: GumbelSoftmax(hard=True),
    "straight_through": StraightThrough,
    "auto": lambda: "auto",
}
SEQUENTIAL_ESTIMATORS: dict[str, Callable[[], Any]] = {
    "auto": lambda: "auto",
    "critic": lambda: ScoreFunction(critic=Critic(MLP([4])), lam=0.9),
    "relaxed": lambda: GumbelSoftmax(hard=True),
}
UNBIASED = ("score", "score_2", "moving_average", "leave_one_out", "learned", "self_critic")


def _mixed(latents: Callable[[], Any]) -> Callable[..., VAE]:
    return lambda likelihood, features=FEATURES, **kwargs: MixedVAE(
        features, likelihood, latents=latents(), **{"hidden": [8], **kwargs}
    )


# Every model of the package: makers from a likelihood (and further arguments of the constructor).
MODELS: dict[str, Callable[..., VAE]] = {
    "gaussian": lambda likelihood, features=FEATURES, **kwargs: GaussianVAE(
        features, likelihood, **{"latent_dim": 2, "hidden": [8], **kwargs}
    ),
    **{
        f"discrete_{name}": lambda likelihood, features=FEATURES, make=make, **kwargs: DiscreteVAE(
            features, likelihood, **{"variables": 2, "categories": 3, "hidden": [8], "estimator": make(), **kwargs}
        )
        for name, make in DISCRETE_ESTIMATORS.items()
    },
    "mixed": _mixed(lambda: None),
    "mixed_independent": _mixed(lambda: {"y": Categorical(3), "z": Gaussian(2)}),
    "mixed_bits": _mixed(lambda: {"b": Bernoulli(3), "z": Gaussian(2, parents=["b"])}),
    "mixed_child_first": _mixed(lambda: {"z": Gaussian(2, parents=["y"]), "y": Categorical(3, learned_prior=True)}),
    "mixed_sampled": _mixed(
        lambda: {
            "b": Bernoulli(3, estimator=StraightThrough()),
            "y": Categorical(3, estimator=ScoreFunction(num_samples=2, baseline=LeaveOneOut())),
            "z": Gaussian(2, parents=["y"], estimator=Pathwise(num_samples=2)),
        }
    ),
    "mixed_component": _mixed(lambda: {"y": MixtureComponent(3), "z": Gaussian(2, parents=["y"])}),
    "vamp_prior": _mixed(lambda: {"z": Gaussian(2, prior=VampPrior(4))}),
    "mixture_prior": _mixed(lambda: {"z": Gaussian(2, prior=GaussianMixture(3)), "y": Categorical(3)}),
    "flow_prior": _mixed(lambda: {"z": Gaussian(2, prior=FlowPrior(num_layers=2))}),
    "flow": _mixed(lambda: {"z": Flow(2, num_layers=2)}),
    "gamma": _mixed(lambda: {"x": Gamma(2)}),
    "dirichlet": _mixed(lambda: {"x": Dirichlet(3, concentration=0.5)}),
    "student_t": _mixed(lambda: {"x": StudentT(2), "y": Categorical(3)}),
    **{
        f"sequential_{name}": lambda likelihood, features=FEATURES, make=make, **kwargs: SequentialVAE(
            features, likelihood, **{"categories": [3, 2, 2], "hidden": [8], "estimator": make(), **kwargs}
        )
        for name, make in SEQUENTIAL_ESTIMATORS.items()
    },
    "mixed_relaxed": _mixed(lambda: {"y": Categorical(3, estimator=GumbelSoftmax()), "z": Gaussian(2, parents=["y"])}),
}


def counts(rows: int = 12, features: int = FEATURES, seed: int = 0) -> Batch:
    """Return counts of two kinds of cell; the last cell is empty."""
    generator = torch.Generator().manual_seed(seed)
    mean = torch.rand(2, features, generator=generator) * 6
    x = torch.poisson(mean[torch.arange(rows) % 2], generator=generator)
    x[-1] = 0
    return Batch(x, x.sum(1, keepdim=True).clamp_min(1), label=torch.arange(rows) % 2, index=torch.arange(rows))


def pixels(rows: int = 12, features: int = FEATURES, seed: int = 0) -> Batch:
    """Return binary pixels of two kinds of image."""
    generator = torch.Generator().manual_seed(seed)
    one = torch.rand(2, features, generator=generator)[torch.arange(rows) % 2]
    return Batch(torch.bernoulli(one, generator=generator), label=torch.arange(rows) % 2)


def batch_for(likelihood: type, rows: int = 12) -> Batch:
    """Return data that the likelihood can describe."""
    return counts(rows) if likelihood in COUNT_LIKELIHOODS else pixels(rows)


def repeated(batch: Batch, row: int, times: int) -> Batch:
    """Return one row of a batch many times: replicates for Monte Carlo."""
    return Batch(
        *(None if field is None else field[row : row + 1].repeat(times, *[1] * (field.dim() - 1)) for field in batch)
    )


def sharpen(model: VAE, factor: float = 2.0, seed: int = 0) -> VAE:
    """Enlarge the weights of an untrained model, so that posterior and decoder vary."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.mul_(factor).add_(0.3 * noise)
    return model


def broaden(model: VAE) -> VAE:
    """Widen the posteriors of a model, so that they are good proposals for importance sampling."""
    with torch.no_grad():
        for latent in model.latents.values():
            if not hasattr(latent, "head"):
                continue
            latent.head.weight.mul_(0.2)
            latent.head.bias.mul_(0.2)
            for parameter in latent.layers.parameters() if hasattr(latent, "layers") else ():
                parameter.mul_(0.2)
            if not latent.discrete:
                latent.head.bias[latent.size :] = 1.5
    return model


def adata(cells: int = 60, genes: int = 12, seed: int = 0) -> AnnData:
    """Return counts of three cell types in two batches, with the counts in ``.X`` and in a layer."""
    rng = np.random.default_rng(seed)
    kind = np.arange(cells) % 3
    mean = rng.gamma(0.7, 3.0, size=(3, genes))[kind]
    x = rng.poisson(mean).astype(np.float32)
    x[:, 0] += 1  # no cell is empty
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical(np.array(["B", "T", "NK"])[kind]),
            "batch": np.array(["b1", "b2"])[np.arange(cells) // 2 % 2],
        },
        index=[f"cell{i}" for i in range(cells)],
    )
    made = AnnData(sparse.csr_matrix(x), obs=obs, var=pd.DataFrame(index=[f"gene{i}" for i in range(genes)]))
    made.layers["counts"] = made.X.copy()
    return made


def differences(first: Any, second: Any, place: str = "") -> list[str]:
    """Return the places at which two checkpoints differ, bit by bit."""
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return [] if first.dtype == second.dtype and first.equal(second) else [place]
    if isinstance(first, dict) and isinstance(second, dict):
        missing = [f"{place}.{key}" for key in first.keys() ^ second.keys()]
        both = first.keys() & second.keys()
        return [
            *missing,
            *itertools.chain.from_iterable(differences(first[k], second[k], f"{place}.{k}") for k in both),
        ]
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        pairs = enumerate(zip(first, second, strict=True))
        return list(itertools.chain.from_iterable(differences(a, b, f"{place}[{i}]") for i, (a, b) in pairs))
    return [] if first == second else [f"{place}: {first!r}, {second!r}"]


def trainer(folder: Path | str | None = None, **kwargs: Any) -> pl.Trainer:
    """Return a CPU trainer that shows and writes only what its callbacks do."""
    callbacks = kwargs.get("callbacks", [])
    return pl.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        enable_progress_bar=any(isinstance(c, pl.callbacks.ProgressBar) for c in callbacks),
        enable_checkpointing=any(isinstance(c, pl.callbacks.ModelCheckpoint) for c in callbacks),
        **kwargs,
    )


def fit(model: VAE, batch: Batch, steps: int, **kwargs: Any) -> pl.Trainer:
    """Train on one batch over and over, then validate on it; return the trainer."""
    used = trainer(max_epochs=1, **kwargs)
    used.fit(model, DataLoader([batch] * steps, batch_size=None), DataLoader([batch], batch_size=None))
    return used
