"""The exact bias of straight-through and ReinMax gradients, at several states of training.

Both multiply a matrix that the posterior and the drawn value give by the cost's slope at that value. The slope is
computed at all 4096 states of each image, so that the mean over the draws is a sum, without noise, for all
temperatures at once. The matrices are written out here as Jacobians of softmaxes, apart from ``vaekit.estimators``,
whose estimates are then held against these means.

Two measures: of the gradient of the reconstruction at the logits, as in the paper's repository, and of that of the
whole bound at the encoder's parameters. The encoder's Jacobian adds up the images, so that what their gradients have in
common counts most there, and the two need not agree.

What the paper proves is the order of accuracy: straight-through is exact for costs of first degree in a variable,
ReinMax at temperature 1 for those of second degree. Which of two biases is larger for another cost is a matter of that
cost, and so of the decoder at that step of training.

Liu, Dong, Liu, Yu and Gao (2023), Bridging Discrete and Backpropagation: Straight-Through and Beyond.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from reinmax_model import CATEGORIES, LATENTS, STATES, DiscreteVAE, batches, digits, train
from reinmax_protocol import Problem, contestants
from torch import Tensor
from tqdm.auto import tqdm

from vaekit.estimators import Estimator, ReinMax, StraightThrough

CHUNK = 256  # states at a time
STRAIGHT_THROUGH, REINMAX = (1.0, 1.3), (1.0, 1.1, 1.3, 1.5, 2.0)
TRAINERS = ("leave-one-out, 4", "straight-through", "ReinMax, 1.3")
MARKS, IMAGES, BATCH = (0, 100, 600), 16, 100
OURS: dict[str, Callable[[], Estimator]] = {
    "straight-through, 1": StraightThrough,
    "ReinMax, 1": ReinMax,
    "ReinMax, 1.3": lambda: ReinMax(1.3),
}


def softmax_jacobian(p: Tensor) -> Tensor:
    """Return ``diag(p) - p p^T``, ``[..., categories, categories]``."""
    return torch.diag_embed(p) - p[..., :, None] * p[..., None, :]


def matrices(logits: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return, by the estimator's name, the matrix before the slope as a function of one-hot values."""
    mean = logits.softmax(-1)
    found: dict[str, Callable[[Tensor], Tensor]] = {}
    for heat in STRAIGHT_THROUGH:
        through = softmax_jacobian((logits / heat).softmax(-1)) / heat
        found[f"straight-through, {heat:g}"] = lambda z, through=through: through
    for heat in REINMAX:
        warm, plain = (logits / heat).softmax(-1), softmax_jacobian(mean) / 2
        found[f"ReinMax, {heat:g}"] = lambda z, w=warm, p=plain: 2 * softmax_jacobian((z + w) / 2) - p
    return found


def slopes(problem: Problem) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield one-hot states ``[states, latents, categories]``, their probabilities and the cost's slopes there."""
    log_q = problem.logits.double().log_softmax(-1)
    for chunk in torch.arange(STATES).split(CHUNK):
        hot = F.one_hot(digits(chunk), CATEGORIES)
        leaf = hot[:, None].expand(-1, len(problem.x), -1, -1).float().requires_grad_()
        (slope,) = torch.autograd.grad(problem.vae.reconstruction(leaf, problem.x).sum(), leaf)
        probability = log_q[:, torch.arange(LATENTS), digits(chunk)].sum(-1).exp()  # [batch, states]
        yield hot.double(), probability, slope.double()


def mean_gradients(problem: Problem) -> dict[str, Tensor]:
    """Return the exact mean of each estimator's gradient at the logits of the mean cost, flat, with the KL's."""
    of = matrices(problem.logits.double())
    total = {name: torch.zeros_like(problem.logits, dtype=torch.float64) for name in of}
    for hot, probability, slope in slopes(problem):
        weighted = probability.T[..., None, None] * slope  # [states, batch, latents, categories]
        for name, matrix in of.items():
            if name.startswith("straight"):
                total[name] += (matrix(hot) @ weighted.sum(0)[..., None]).squeeze(-1)
                continue
            for latent in range(LATENTS):  # a latent's matrix depends on its own category alone
                for category in range(CATEGORIES):
                    here = hot[:, latent, category] > 0
                    if here.any():
                        one = F.one_hot(torch.tensor(category), CATEGORIES).double()
                        total[name][:, latent] += (
                            matrix(one)[:, latent] @ weighted[here, :, latent].sum(0)[..., None]
                        ).squeeze(-1)
    return {name: value.flatten() / len(problem.x) + problem.of_divergence for name, value in total.items()}


def line(problem: Problem, count: int) -> dict[str, Any]:
    """Return the norms of the exact gradients and, by estimator, bias and cosine of the mean estimate in both measures.

    A bias is a fraction of the norm. ``z``: of the mean of ``count`` estimates of ours less that computed here, along
    the bias.
    """
    exact = problem.exact
    reconstruction = exact - problem.of_divergence
    estimators: dict[str, dict[str, float]] = {}
    for name, mean in mean_gradients(problem).items():
        estimators[name] = {
            "bias": ratio(problem.inner, mean - exact, exact),
            "cosine": cosine(problem.inner, mean, exact),
            "reconstruction_bias": ratio(plain, mean - exact, reconstruction),
            "reconstruction_cosine": cosine(plain, mean - problem.of_divergence, reconstruction),
        }
        if name in OURS:
            direction = (mean - exact) @ problem.gram
            along = torch.cat([(e - mean) @ direction for e in problem.estimates(OURS[name](), count)])
            estimators[name]["z"] = (along.mean() / (along.std() / math.sqrt(len(along)))).item()
    norms = {
        "norm": problem.inner(exact, exact).sqrt().item(),
        "reconstruction_norm": reconstruction.norm().item(),
        "divergence_norm": problem.of_divergence.norm().item(),
        "sum_norm": exact.norm().item(),
    }
    return {"norms": norms, "estimators": estimators}


def plain(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner product of two gradients at the logits."""
    return (a * b).sum(-1)


def ratio(inner: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> float:
    """Return the norm of ``a`` over that of ``b``."""
    return (inner(a, a) / inner(b, b)).sqrt().item()


def cosine(inner: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> float:
    """Return the cosine of the angle between ``a`` and ``b``."""
    return (inner(a, b) / (inner(a, a) * inner(b, b)).sqrt()).item()


def table(grey: Tensor, marks: tuple[int, ...], seed: int, count: int) -> list[dict[str, Any]]:
    """Return a line for each trainer and number of training steps."""
    lines = []
    for trainer in TRAINERS:
        torch.manual_seed(seed)
        vae, stream = DiscreteVAE(grey.shape[1]), batches(grey, BATCH)
        done, bound = 0, None
        for mark in tqdm(marks, desc=f"(e) trained by {trainer}", unit="state"):
            if mark > done:
                bound = train(vae, stream, mark - done, contestants()[trainer]())
                done = mark
            problem = Problem(vae, next(stream)[:IMAGES])
            largest = problem.logits.softmax(-1).amax(-1).mean().item()
            found = line(problem, count)
            lines.append({"trainer": trainer, "step": mark, "elbo": bound, "largest_probability": largest, **found})
            vae.decoder.requires_grad_(True)  # the problem had fixed it
    return lines
