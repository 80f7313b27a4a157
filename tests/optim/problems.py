"""Small finite sums with their gradients in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

ROWS, WIDTH = 12, 3
X = np.cos(np.arange(ROWS * WIDTH) * 1.7).reshape(ROWS, WIDTH) * 1.5
Y = (np.arange(ROWS) % 3 == 0).astype(float)


def logistic() -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return weights at 0, and a closure on observations that stores the gradient in ``.grad``."""
    w = torch.zeros(WIDTH, dtype=torch.float64, requires_grad=True)
    x, y = torch.from_numpy(X), torch.from_numpy(Y)

    def closure(rows: Tensor) -> Tensor:
        w.grad = None
        loss = binary_cross_entropy_with_logits(x[rows] @ w, y[rows])
        loss.backward()
        return loss

    return w, closure


def losses_and_outputs(w: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the losses ``[rows]`` and the logits that determine them."""
    logits = torch.from_numpy(X)[rows] @ w
    return binary_cross_entropy_with_logits(logits, torch.from_numpy(Y)[rows], reduction="none"), logits


def derivative(w: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the derivatives of the losses with respect to the logits, ``[rows]``."""
    return 1 / (1 + np.exp(-X[rows] @ w)) - Y[rows]


def gradient(w: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the mean gradient of some observations."""
    return X[rows].T @ derivative(w, rows) / len(rows)


def shuffles(epochs: int) -> Iterator[np.ndarray]:
    """Yield the shuffled observations of each epoch, in the order of copt after np.random.seed(0)."""
    random, rows = np.random.RandomState(0), np.arange(ROWS)
    for _ in range(epochs):
        random.shuffle(rows)
        yield rows.copy()
