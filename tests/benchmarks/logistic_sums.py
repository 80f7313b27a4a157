"""l2-regularized logistic regression by SVRG, SAGA and SGD: the distance to the optimum after each pass.

The optimum is computed by Newton's method (scipy.linalg). The loss is strongly convex, so the error of the optimum is
at most the norm of its gradient over lambda. A pass computes as many gradients of single observations as there are
observations. A step of SVRG computes two gradients per observation, a step of SAGA or SGD one, and a snapshot of SVRG
one for each observation of the data.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.linalg import solve
from scipy.special import expit, softmax
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from tqdm.auto import tqdm

from vaekit.optim import SAGA, SVRG

GOAL, FLOOR = 1e-8, 1e-12
SGD_PASSES = 60  # at most: it stalls


class Data(NamedTuple):
    """Standardized features ``[rows, features]``, classes, and the width of the output (1 for two classes)."""

    x: np.ndarray
    y: np.ndarray
    width: int


class Setting(NamedTuple):
    """How a method is run."""

    batch: int
    lr: float
    momentum: float = 0.0
    nesterov: bool = False

    def __str__(self) -> str:
        more = f", momentum {self.momentum}{' (Nesterov)' if self.nesterov else ''}" if self.momentum else ""
        return f"batch {self.batch}, lr {self.lr:g}{more}"


SETTINGS = {  # the best of these is reported
    "breast cancer": {
        "SAGA": [Setting(8, 0.1), Setting(32, 0.2, 0.9)],
        "SVRG": [Setting(8, 0.2), Setting(32, 0.2, 0.9)],
        "SGD": [Setting(b, lr) for b in (8, 32) for lr in (0.003, 0.005, 0.01, 0.02, 0.05, 0.1)],
    },
    "digits": {
        "SAGA": [Setting(64, 0.01, 0.9), Setting(128, 0.02, 0.9)],
        "SVRG": [Setting(96, 0.03, 0.9, True), Setting(64, 0.016, 0.93, True)],
        "SGD": [Setting(b, lr) for b in (16, 64) for lr in (0.002, 0.005, 0.01, 0.02, 0.05)],
    },
}
SETTINGS["breast cancer"]["SVRG, by norm"] = [Setting(8, 0.2), Setting(32, 0.2, 0.9)]
SETTINGS["digits"]["SVRG, by norm"] = [Setting(8, 0.07), Setting(32, 0.02, 0.9, True)]
METHODS = ("SAGA", "SVRG", "SVRG, by norm", "SGD", "SGD, reshuffled")
SETTINGS = {n: {m: found[m.removesuffix(", reshuffled")] for m in METHODS} for n, found in SETTINGS.items()}


def load(name: str) -> Data:
    """Return a data set of scikit-learn, each feature with mean 0 and variance 1 (a constant one is 0)."""
    from sklearn.datasets import load_breast_cancer, load_digits

    bunch = load_breast_cancer() if name == "breast cancer" else load_digits()
    scale = bunch.data.std(0)
    x = (bunch.data - bunch.data.mean(0)) / np.where(scale > 0, scale, 1.0)
    return Data(x, bunch.target, 1 if name == "breast cancer" else 10)


def derivative(data: Data, w: np.ndarray, rows: Any = slice(None)) -> np.ndarray:
    """Return the derivatives of the losses by the outputs, ``[rows, width]``."""
    z = data.x[rows] @ w
    if data.width == 1:
        return expit(z) - data.y[rows, None]
    return softmax(z, 1) - np.eye(data.width)[data.y[rows]]


def optimum(data: Data, decay: float) -> tuple[np.ndarray, float]:
    """Return the weights ``[features, width]`` that minimize the loss, and the norm of the gradient there."""
    rows, features = data.x.shape
    w = np.zeros((features, data.width))
    for _ in range(100):
        gradient = data.x.T @ derivative(data, w) / rows + decay * w
        norm = float(np.linalg.norm(gradient))
        if norm < 1e-14:
            break
        p = expit(data.x @ w) if data.width == 1 else softmax(data.x @ w, 1)
        curvature = np.zeros((features, data.width, features, data.width))
        for k in range(data.width):
            for j in range(data.width):
                weight = p[:, k] * ((k == j) - p[:, j]) / rows
                curvature[:, k, :, j] = (data.x * weight[:, None]).T @ data.x
        size = features * data.width
        step = solve(curvature.reshape(size, size) + decay * np.eye(size), gradient.ravel(), assume_a="pos")
        w = w - step.reshape(w.shape)
    return w, norm


class Problem:
    """A data set in torch, with the weights that are trained."""

    def __init__(self, data: Data) -> None:
        self.x, self.y = torch.from_numpy(data.x), torch.from_numpy(data.y)
        self.binary = data.width == 1
        self.w = torch.zeros(data.x.shape[1], data.width, dtype=torch.float64, requires_grad=True)

    def losses(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the losses ``[rows]`` and the outputs."""
        z = self.x[rows] @ self.w
        if self.binary:
            return binary_cross_entropy_with_logits(z[:, 0], self.y[rows].double(), reduction="none"), z
        return cross_entropy(z, self.y[rows], reduction="none"), z

    def chances(self) -> Tensor:
        """Return chances of the rows: half of them equal, half by the squared norm, a bound of their curvature."""
        squares = self.x.square().sum(1)
        return 0.5 / len(squares) + 0.5 * squares / squares.sum()

    def backward(self, rows: Tensor, weights: Tensor | float = 1.0) -> Tensor:
        """Return the mean loss with weights of the rows, its gradient in ``.grad``."""
        self.w.grad = None
        loss = (weights * self.losses(rows)[0]).mean()
        loss.backward()
        return loss


def trajectory(method: str, data: Data, setting: Setting, decay: float, seed: int) -> Iterator[tuple[float, Tensor]]:
    """Yield passes and weights, epoch by epoch.

    SAGA and SGD draw the rows of each mini-batch again from all; SVRG, and SGD where it says so, go through them in
    random order. By norm: rows are drawn with chances that their norm raises, and weighted by the inverse (Xiao and
    Zhang 2014, A Proximal Stochastic Gradient Method with Progressive Variance Reduction).
    """
    torch.manual_seed(seed)
    problem, rows = Problem(data), len(data.x)
    options: dict[str, Any] = {"weight_decay": decay, "momentum": setting.momentum, "nesterov": setting.nesterov}
    if method == "SAGA":
        saga = SAGA([problem.w], setting.lr, num_observations=rows, num_outputs=data.width, **options)
    elif method.startswith("SVRG"):
        svrg = SVRG([problem.w], setting.lr, **options)
    else:
        sgd = torch.optim.SGD([problem.w], setting.lr, **options)
    passes, chances = 0.0, problem.chances()
    while True:
        order = torch.randperm(rows).split(setting.batch)
        if method == "SVRG, by norm":
            order = torch.multinomial(chances, rows, replacement=True).split(setting.batch)
        if method.startswith("SVRG"):
            svrg.snapshot(problem.backward, torch.arange(rows).split(256))
            passes += 1
        for some in order:
            if method in ("SAGA", "SGD"):
                some = torch.randperm(rows)[: setting.batch] if setting.batch > 1 else torch.randint(rows, (1,))
            if method == "SAGA":
                saga.step(lambda some=some: problem.losses(some), some)
            elif method.startswith("SVRG"):
                weights = 1 / (rows * chances[some]) if method == "SVRG, by norm" else 1.0
                svrg.step(lambda some=some, weights=weights: problem.backward(some, weights))
            else:
                sgd.step(lambda some=some: problem.backward(some))
            passes += (2 if method.startswith("SVRG") else 1) * len(some) / rows
        yield passes, problem.w.detach()


def curve(
    method: str, data: Data, setting: Setting, decay: float, best: np.ndarray, limit: int, seed: int
) -> list[list[float]]:
    """Return passes and distances to the optimum, until ``limit`` passes or rounding ends it."""
    found = [[0.0, float(np.linalg.norm(best))]]
    for passes, w in trajectory(method, data, setting, decay, seed):
        if passes > limit:
            break
        found.append([passes, float(np.linalg.norm(w.numpy() - best))])
        if not FLOOR < found[-1][1] < 1e6:
            break
    return found


def summary(points: list[list[float]]) -> dict[str, Any]:
    """Return passes to the goal, the distance at the end (mean of 5 epochs), and decades a pass on the way there."""
    passes, distances = np.array(points).T
    reached = np.flatnonzero(distances < GOAL)
    usable = distances > 10 * FLOOR
    if usable.sum() > 5:
        slope, offset = np.polyfit(passes[usable], np.log10(distances[usable]), 1)
        residual = np.log10(distances[usable]) - slope * passes[usable] - offset
        spread = np.log10(distances[usable]).var()
        fit = 1 - residual.var() / spread if spread else math.nan
    else:
        slope = fit = math.nan
    return {
        "passes to 1e-8": round(float(passes[reached[0]]), 1) if len(reached) else None,
        "distance": float(np.mean(distances[-5:])) if not len(reached) else float(distances[-1]),
        "decades a pass": float(slope),
        "R2 of the line": float(fit),
    }


def table(name: str, decays: dict[str, float], limits: dict[str, int], seed: int) -> list[dict[str, Any]]:
    """Return a line a method and lambda: the best of its settings, by passes to the goal, else by distance."""
    data = load(name)
    lines = []
    for label, decay in decays.items():
        decay = decay or 1 / len(data.x)
        best, norm = optimum(data, decay)
        for method, settings in SETTINGS[name].items():
            limit = min(limits[label], SGD_PASSES) if method.startswith("SGD") else limits[label]
            runs = []
            for setting in tqdm(settings, desc=f"{name}, lambda {label}, {method}", unit="run"):
                points = curve(method, data, setting, decay, best, limit, seed)
                runs.append({"setting": str(setting), **summary(points), "curve": points})
            chosen = min(runs, key=lambda run: (run["passes to 1e-8"] or math.inf, run["distance"]))
            lines.append({"data": name, "lambda": label, "method": method, "limit": limit, **chosen,
                          "error of the optimum": norm / decay})  # fmt: skip
    return lines


def against_peers(passes: int) -> dict[str, float]:
    """Return the largest difference of weights from those of NumPy, scikit-learn and, where installed, copt."""
    data, decay, lr = load("breast cancer"), 0.1, 0.005
    rows = len(data.x)
    found = {}
    for method in ("SAGA", "SVRG"):
        ours = _one_by_one(method, data, decay, lr, passes)
        found[f"{method} - NumPy"] = float(np.abs(ours - _numpy(method, data, decay, lr, passes)).max())
        if importlib.util.find_spec("copt"):
            found[f"{method} - copt"] = float(np.abs(ours - _copt(method, data, decay, lr, passes)).max())
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1 / (rows * decay), fit_intercept=False, solver="newton-cholesky", tol=1e-12)
    found["optimum - scikit-learn"] = float(
        np.abs(model.fit(data.x, data.y).coef_[0] - optimum(data, decay)[0][:, 0]).max()
    )
    return found


def _orders(rows: int, passes: int) -> Iterator[np.ndarray]:
    random, order = np.random.RandomState(0), np.arange(rows)
    for _ in range(passes):
        random.shuffle(order)  # as copt does
        yield order.copy()


def _one_by_one(method: str, data: Data, decay: float, lr: float, epochs: int) -> np.ndarray:
    problem, rows = Problem(data), len(data.x)
    saga = SAGA([problem.w], lr, weight_decay=decay, num_observations=rows, num_outputs=1)
    svrg = SVRG([problem.w], lr, weight_decay=decay)
    for order in _orders(rows, epochs):
        if method == "SVRG":
            svrg.snapshot(problem.backward, torch.arange(rows).split(100))
        for i in torch.from_numpy(order):
            if method == "SAGA":
                saga.step(lambda i=i: problem.losses(i[None]), i[None])
            else:
                svrg.step(lambda i=i: problem.backward(i[None]))
    return problem.w.detach().numpy()[:, 0]


def _numpy(method: str, data: Data, decay: float, lr: float, epochs: int) -> np.ndarray:
    rows, features = data.x.shape
    w, table_, mean = np.zeros((features, 1)), np.zeros(rows), np.zeros(features)
    for order in _orders(rows, epochs):
        if method == "SVRG":
            table_ = derivative(data, w)[:, 0]
            mean = data.x.T @ table_ / rows
        for i in order:
            new = derivative(data, w, [i])[0, 0]
            change = (new - table_[i]) * data.x[i]
            w = w - lr * (change + mean + decay * w[:, 0])[:, None]
            if method == "SAGA":
                mean, table_[i] = mean + change / rows, new
    return w[:, 0]


def _copt(method: str, data: Data, decay: float, lr: float, epochs: int) -> np.ndarray:
    from copt import randomized
    from numba import njit

    @njit
    def slope(p, y):
        return 1 / (1 + np.exp(-p)) - y

    minimize: Callable[..., Any] = randomized.minimize_saga if method == "SAGA" else randomized.minimize_svrg
    np.random.seed(0)
    start = np.zeros(data.x.shape[1])
    return minimize(slope, data.x, data.y.astype(float), start, lr, alpha=decay, max_iter=epochs, tol=0).x
