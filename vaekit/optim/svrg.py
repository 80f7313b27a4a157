"""SVRG: SGD with the gradient at a snapshot of the parameters as control variate."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from vaekit.exceptions import ConfigError, EstimatorError
from vaekit.optim.loss_rng import RNGState, cuda_devices
from vaekit.optim.variance_reduced_sgd import (
    Closure,
    VarianceReducedSGD,
    distance,
    num_observations,
    reject_distributed,
)

TOLERANCE = 1e-3  # relative difference of two gradients by rounding, on accelerators too


class SVRG(VarianceReducedSGD):
    r"""SGD with the gradient at a snapshot of the parameters as its control variate.

    .. math:: w_{t+1} = w_t - \eta \Big(\nabla F_B(w_t) - \nabla F_B(\tilde w) + \nabla F(\tilde w)
              + \lambda w_t\Big), \qquad F = \frac{1}{n} \sum_i F_i

    B is a random mini-batch of each step. The snapshot :math:`\tilde w` is updated regularly, for example each epoch,
    and its full gradient is computed in chunks. Memory: one chunk and twice the parameters. The estimate is unbiased,
    and its variance falls with the distance to the snapshot: for a strongly convex sum a constant step converges
    linearly, where SGD stalls. A step computes two gradients of the mini-batch, a snapshot those of all observations.

    **Random losses** (sampled latents, dropout) have common random numbers at both points: torch's global generators
    are replayed for the snapshot, and continue as in a plain step. The noise then cancels like the choice of the
    mini-batch. Separate random numbers would *add* noise: on a Gaussian VAE with dropout (configs/pbmc_gaussian.yaml)
    the variance is 1.6 to 1.7 times that of plain mini-batches. A closure whose random numbers are not common (NumPy, a
    separate generator, a state that each call changes) is therefore rejected: at the first step after a snapshot both
    gradients must be equal.

    The full gradient of a random loss is a mean over ``num_passes`` passes. Its error is constant until the next
    snapshot, which biases the inner loop (but not the mean over snapshots). The square of the bias is about
    ``batch_size / (num_observations * num_passes)`` times the variance by the random numbers of one mini-batch.

    The gain is smaller in deep networks, where gradients soon differ from those at the snapshot (Defazio and Bottou
    2019). On that VAE the variance is 0.03 of that of plain mini-batches after one step, 0.35 after one epoch and 0.48
    after ten. Mini-batches of twice the size cost as much and have 0.48. Measure before use. A mini-batch must be equal
    at both points, so augmentation does not belong in the closure, and batch normalization is not supported.

    Johnson and Zhang (2013), Accelerating Stochastic Gradient Descent using Predictive Variance Reduction;
    Defazio and Bottou (2019), On the Ineffectiveness of Variance Reduced Optimization for Deep Learning.

    Parameters
    ----------
    params, lr, momentum, dampening, weight_decay, nesterov
        As for ``torch.optim.SGD``.
    seed : int
        Seed of the snapshots' full gradients, which leave torch's global generators unchanged.
    independent_noise : bool
        Whether the two gradients of a step have separate random numbers, for comparisons only.

    Raises
    ------
    ConfigError
        If a number is out of its range, or training is distributed.

    Examples
    --------
    Logistic regression:

    >>> x = torch.randn(200, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> y = (x[:, 0] > 0).double()
    >>> w = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    >>> optimizer = SVRG([w], lr=0.5, weight_decay=0.1)
    >>> def closure(index):
    ...     optimizer.zero_grad()
    ...     loss = torch.nn.functional.binary_cross_entropy_with_logits(x[index] @ w, y[index])
    ...     loss.backward()
    ...     return loss
    >>> for epoch in range(20):
    ...     _ = optimizer.snapshot(closure, torch.arange(200).split(50))
    ...     for index in torch.randperm(200).split(10):
    ...         _ = optimizer.step(lambda: closure(index))
    >>> _ = closure(torch.arange(200))
    >>> bool((w.grad + 0.1 * w).norm() < 1e-8)
    True
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        seed: int = 0,
        independent_noise: bool = False,
    ) -> None:
        super().__init__(params, lr, momentum, dampening, weight_decay, nesterov, independent_noise)
        self.state["svrg"] = {"seed": int(seed), "taken": 0, "fresh": False}  # type: ignore[index]  # stored with the state

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if "svrg" not in state_dict["state"]:
            raise ConfigError("SVRG: the saved state belongs to another optimizer, and has no snapshot.")
        super().load_state_dict(state_dict)

    @property
    def ready(self) -> bool:
        """Whether there is a snapshot of all parameters."""
        return all("snapshot" in self.state.get(p, {}) for p in self.parameters())

    @torch.no_grad()
    def snapshot(self, closure: Callable[[Any], Any], batches: Iterable[Any], num_passes: int = 1) -> float:
        """Store a snapshot of the parameters and compute its full gradient.

        Parameters
        ----------
        closure : Callable
            Returns the mean loss of a batch and stores its gradient in ``.grad``.
        batches : Iterable
            All observations once, in chunks that fit into memory. The length of a chunk's (first) tensor is its weight.
        num_passes : int
            Number of passes over the data, each with separate random numbers. A loss without noise needs one.

        Returns
        -------
        float
            Mean loss of all observations.

        Raises
        ------
        ConfigError
            If ``num_passes`` is less than 1, or a pass contains no observations.
        """
        reject_distributed("SVRG")
        if num_passes < 1:
            raise ConfigError(f"SVRG.snapshot: num_passes={num_passes} must be at least 1.")
        params, settings = self.parameters(), self.state["svrg"]  # type: ignore[index]
        gradients, sums, total, loss = [p.grad for p in params], [torch.zeros_like(p) for p in params], 0, 0.0
        with torch.random.fork_rng(cuda_devices(params)):
            # a string as seed: similar seeds, or one that the user sets, must not give the same numbers
            torch.manual_seed(random.Random(f"SVRG {settings['seed']} {settings['taken']}").getrandbits(63))
            for index in range(num_passes):
                total_before = total
                for batch in batches:
                    count = num_observations(batch)
                    loss += count * float(_evaluate(closure, params, batch))
                    for p, sum_ in zip(params, sums, strict=True):
                        if p.grad is not None:
                            sum_.add_(p.grad, alpha=count)
                    total += count
                if total == total_before:
                    raise ConfigError(
                        f"SVRG.snapshot: pass {index + 1} of {num_passes} over batches contains no observations. Give "
                        "a list or a loader instead of an iterator."
                    )
        for p, gradient, sum_ in zip(params, gradients, sums, strict=True):
            p.grad = gradient
            self.state[p]["snapshot"] = p.detach().clone()
            self.state[p]["full_gradient"] = sum_.div_(total)
        settings.update(taken=settings["taken"] + 1, fresh=True)
        return loss / total

    @torch.no_grad()
    def correct(self, closure: Closure, rng_state: RNGState) -> None:
        """Convert the mini-batch's gradient in ``.grad`` to the variance-reduced one.

        :meth:`step` calls it. A separate call allows to clip the gradient in between:
        ``state = optimizer.rng_state(); closure(); optimizer.correct(closure, state); clip(...); optimizer.step()``.

        Parameters
        ----------
        closure : Callable
            As for :meth:`step`; evaluated at the snapshot.
        rng_state : RNGState
            The result of :meth:`rng_state` before the gradient at the current point was computed.

        Raises
        ------
        EstimatorError
            If there is no snapshot, or the closure's random numbers are not common.
        """
        if not self.ready:
            raise EstimatorError("SVRG has no snapshot of all parameters. Call snapshot(closure, batches) first.")
        params, settings = self.parameters(), self.state["svrg"]  # type: ignore[index]
        current, points = [p.grad for p in params], [p.data for p in params]
        is_at_snapshot = settings["fresh"] and all(p.equal(self.state[p]["snapshot"]) for p in params)
        try:
            for p in params:
                p.data = self.state[p]["snapshot"]
            with contextlib.nullcontext() if self.independent_noise else rng_state.replayed():
                _evaluate(lambda _: closure(), params, None)
            control = [p.grad for p in params]
        finally:
            for p, point, gradient in zip(params, points, current, strict=True):
                p.data, p.grad = point, gradient
        settings["fresh"] = False
        if is_at_snapshot and not self.independent_noise:
            _check_common(current, control)
        for p, gradient, variate in zip(params, current, control, strict=True):
            if gradient is not None or variate is not None:
                full = self.state[p]["full_gradient"]
                p.grad = full + (0 if gradient is None else gradient) - (0 if variate is None else variate)
        self._corrected = True

    @override
    def step(self, closure: Closure | None = None) -> Any:
        """Take a step.

        Parameters
        ----------
        closure : Callable or None
            Returns the mean loss of a mini-batch and stores its gradient in ``.grad``. It is evaluated at the current
            point and at the snapshot. None after :meth:`correct`.

        Returns
        -------
        loss
            The closure's result at the current point.

        Raises
        ------
        EstimatorError
            As for :meth:`correct`, or if there is neither a closure nor a corrected gradient.
        """
        loss = None
        if closure is not None:
            state, self._corrected = self.rng_state(), False
            with torch.enable_grad():
                loss = closure()
            if not self._corrected:  # Lightning's closure corrects in a callback, before clipping
                self.correct(closure, state)
        self._descend()
        return loss


def _evaluate(closure: Callable[[Any], Any], params: list[Tensor], batch: Any) -> Any:
    """Return the closure's loss, with only its gradient in ``.grad``."""
    for p in params:
        p.grad = None
    with torch.enable_grad():
        return closure(batch)


def _check_common(current: list[Tensor | None], control: list[Tensor | None]) -> None:
    gap, norm = distance(current, control)
    if gap > TOLERANCE * norm:
        raise EstimatorError(
            f"SVRG: at the snapshot two gradients of one mini-batch differ by {gap:.3g} (their norm is {norm:.3g}). "
            "The closure draws random numbers that do not come from torch's global generators (NumPy, another "
            "torch.Generator), or changes a state (batch normalization, a moving average). Such a control variate "
            "adds variance. Use torch's global generators, or independent_noise=True for a comparison."
        )
