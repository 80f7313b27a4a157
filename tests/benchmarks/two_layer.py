"""The variance of gradients of a network with two layers of bits, by the protocol of REBAR's repository.

The model follows one estimator (SimpleMuProp), and on the way the gradient of each rival is computed for the same
mini-batch of 24 binarized images. Both moments of it are moving averages (decay 0.999, from 0); a gradient's variance
is averaged over the parameters, those of the generative network too, and over the steps of a window (the published
figures are of epochs of 959 steps), then its logarithm is taken. So it holds the noise of the mini-batch and of the
whole way, the first steps included. Beside it stands that of the encoder alone at a window's end, the model at rest.

Baselines, scales and control variates are trained by their own losses with ten times the learning rate, 3e-4.
"""

from __future__ import annotations

import math
import statistics
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from two_layer_model import TwoLayers, batches
from two_layer_rivals import FOLLOWED, contestants

MARKS = (959, 1918)
# Omniglot, from the front page of REBAR's repository (see ``contestants`` for the names)
PUBLISHED = {
    "NVIL": (2.7640, 2.2665),
    "SimpleMuProp": (-0.0407, -0.7071),
    "MuProp": (-0.0336, -0.7184),
    "REBAR, .5": (-3.5393, -3.6620),
    "REBAR": (-3.7253, -3.8644),
}
PUBLISHED_BOUND = (-260.479, -206.948)
GAPS = (
    ("NVIL", "REBAR"),
    ("NVIL", "REBAR, .5"),
    ("NVIL, local", "REBAR"),
    ("NVIL, standardised", "REBAR"),
    ("moving average", "REBAR"),
    ("MuProp", "REBAR"),
    ("MuProp, standardised", "REBAR"),
    ("REBAR", "RELAX"),
)
TARGET_GAP = 5.0  # NVIL - REBAR
DECAY, LEARNING_RATE, BETAS = 0.999, 3e-4, (0.9, 0.99999)
COLUMNS = ("all", "encoder", "resting")


class Variances:
    """Running moments of the rivals' gradients: of each its mean square, and one mean for all, as all are unbiased."""

    def __init__(self, names: list[str], size: int, encoder: int) -> None:
        self.mean = torch.zeros(size)
        self.squares = {name: torch.zeros(2, dtype=torch.float64) for name in names}
        self.size, self.encoder = size, encoder
        self.seen: dict[str, list[Tensor]] = {name: [] for name in names}

    def update(self, gradients: dict[str, Tensor]) -> None:
        """Take in the gradients of a step, the encoder's entries first."""
        average = torch.stack(list(gradients.values())).mean(0)
        self.mean.lerp_(average, 1 - DECAY)
        square = self.means(self.mean)
        for name, gradient in gradients.items():
            self.squares[name].lerp_(self.means(gradient), 1 - DECAY)
            self.seen[name].append(self.squares[name] - square)

    def means(self, vector: Tensor) -> Tensor:
        """Return the mean square over all parameters, and over the encoder's."""
        encoder = vector[: self.encoder].square().sum(dtype=torch.float64)
        rest = vector[self.encoder :].square().sum(dtype=torch.float64)
        return torch.stack([(encoder + rest) / self.size, encoder / self.encoder])

    def log_means(self) -> dict[str, list[float]]:
        """Return by name the logarithms of the variances' means since the last call."""
        found = {name: torch.stack(own).mean(0).log().tolist() for name, own in self.seen.items()}
        self.seen = {name: [] for name in self.seen}
        return found


def trajectory(grey: Tensor, marks: list[int], draws: int, seed: int) -> list[dict[str, Any]]:
    """Train; return for each mark the mean bound of its window, and by name the three log variances."""
    torch.manual_seed(seed)
    binary = torch.bernoulli(grey)  # once for all, as there
    model, rivals, stream = TwoLayers(binary.mean(0)), contestants(grey.shape[1]), batches(binary)
    parameters = [*model.inference.parameters(), *model.generative.parameters(), model.prior]
    own = {name: [p for p in rival.parameters() if p.requires_grad] for name, rival in rivals.items()}
    optimizer = torch.optim.Adam(parameters, LEARNING_RATE, BETAS)
    extra = torch.optim.Adam([p for group in own.values() for p in group], 10 * LEARNING_RATE, BETAS)
    sizes = [sum(p.numel() for p in group) for group in (parameters, list(model.inference.parameters()))]
    variances, bounds, found = Variances(list(rivals), *sizes), [], []
    for step in tqdm(range(1, max(marks) + 1), desc=f"(c) seed {seed}", unit="step"):
        x, gradients = next(stream), {}
        for name, rival in rivals.items():
            loss = rival(model, x).mean()
            everything = torch.autograd.grad(loss, parameters + own[name], allow_unused=True)
            gradients[name] = torch.cat([g.flatten() for g in everything[: len(parameters)]])
            for parameter, gradient in zip(own[name], everything[len(parameters) :], strict=True):
                parameter.grad = gradient
            if name == FOLLOWED:
                bounds.append(-loss.item())
                for parameter, gradient in zip(parameters, everything, strict=False):
                    parameter.grad = gradient
        variances.update(gradients)
        optimizer.step()
        extra.step()
        if step in marks:
            lines = {
                name: dict(zip(COLUMNS, (*moving, resting(model, rivals[name], binary, draws)), strict=True))
                for name, moving in variances.log_means().items()
            }
            found.append({"step": step, "bound": statistics.mean(bounds), "log_variances": lines})
            bounds = []
    return found


def resting(model: TwoLayers, rival: nn.Module, binary: Tensor, draws: int) -> float:
    """Return the log variance of the encoder's gradient over mini-batches, with nothing being trained."""
    parameters = list(model.inference.parameters())
    rival.eval()
    state, stream = torch.get_rng_state(), batches(binary)  # the way continues as if nobody had looked
    first, second = torch.zeros(()), torch.zeros(())
    for _ in range(draws):
        gradients = torch.autograd.grad(rival(model, next(stream)).mean(), parameters)
        flat = torch.cat([g.flatten() for g in gradients]).double()
        first, second = first + flat, second + flat.square()
    torch.set_rng_state(state)
    rival.train()
    variance = (second / draws - (first / draws) ** 2) * draws / (draws - 1)
    return math.log(variance.mean().item())


def table(
    grey: Tensor, marks: list[int], draws: int, seeds: list[int]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Return lines: the bound of each mark, the log variances of each rival and mark, and their gaps."""
    runs = [trajectory(grey, marks, draws, seed) for seed in seeds]
    bounds, lines, gaps = [], [], []
    for i, mark in enumerate(marks):
        known = mark in MARKS
        bounds.append(
            {
                "step": mark,
                "published": PUBLISHED_BOUND[MARKS.index(mark)] if known else None,
                **spread([run[i]["bound"] for run in runs]),
            }
        )
        values = {
            name: {column: [run[i]["log_variances"][name][column] for run in runs] for column in COLUMNS}
            for name in runs[0][i]["log_variances"]
        }
        theirs = {name: own[MARKS.index(mark)] for name, own in PUBLISHED.items()} if known else {}
        for name, own in values.items():
            each = {column: spread(own[column]) for column in COLUMNS}
            lines.append({"step": mark, "estimator": name, "published": theirs.get(name), **each})
        for worse, better in GAPS:
            each = {
                column: spread([a - b for a, b in zip(values[worse][column], values[better][column], strict=True)])
                for column in COLUMNS
            }
            gap = theirs[worse] - theirs[better] if {worse, better} <= set(theirs) else None
            gaps.append({"step": mark, "gap": f"{worse} - {better}", "published": gap, **each})
    return bounds, lines, gaps


def spread(values: list[float]) -> dict[str, Any]:
    """Return the values of the seeds, their mean, and its standard error where there are two or more."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return {"mean": statistics.mean(values), "standard_error": error, "seeds": values}
