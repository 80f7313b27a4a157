"""Stochastic variance-reduced gradient."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from vaekit.exceptions import ConfigError, EstimatorError
from vaekit.optim.loss_rng import RNGState, cuda_devices
from vaekit.optim.variance_reduced_sgd import Closure, VarianceReducedSGD, distance, refuse_distributed, rows_of

SAME = 1e-3  # relative difference of two gradients that rounding may leave, on accelerators too


class SVRG(VarianceReducedSGD):
    r"""SGD with the gradient at a snapshot of the parameters as its control variate.

    .. math:: w_{t+1} = w_t - \eta \Big(\nabla F_B(w_t) - \nabla F_B(\tilde w) + \nabla F(\tilde w)
              + \lambda w_t\Big), \qquad F = \frac{1}{n} \sum_i F_i

    with a mini-batch B drawn anew each step, the snapshot :math:`\tilde w` taken now and then (each epoch, say) and
    the full gradient there worked out in chunks: memory is that of one chunk and twice the parameters. The estimate is
    unbiased, and its variance falls with the distance to the snapshot: for a strongly convex sum a constant step
    converges linearly, where SGD stalls. A step takes two gradients of the mini-batch, a snapshot those of all rows.

    **Random losses** (sampled latents, dropout) are evaluated at the snapshot with the random numbers of the current
    point: torch's global generators are set back, and go on afterwards as in a plain step. So the noise cancels as the
    choice of the mini-batch does. With numbers of its own the second gradient only *adds* noise: on a Gaussian VAE with
    dropout (configs/pbmc_gaussian.yaml) the variance is 1.6 to 1.7 times that of plain mini-batches, wherever the
    snapshot is. A closure whose random numbers are not common (NumPy's, a generator of its own, a state that each call
    changes) is therefore refused: at the first step after a snapshot both gradients must be equal.

    The full gradient of a random loss is a mean over ``draws`` passes. Its error is fixed until the next snapshot, a
    bias of the inner loop (not over snapshots) whose square is about ``batch_size / (rows * draws)`` times what the
    random numbers alone contribute to the variance of a mini-batch.

    In deep networks the gain fades, since gradients at the snapshot soon tell little of those at the current point
    (Defazio and Bottou 2019). On that VAE the variance is 0.03 of that of plain mini-batches after a step, 0.35 after
    an epoch, 0.48 after ten; mini-batches of twice the rows cost as much and have 0.48. Measure before use. A
    mini-batch must look the same at both points (augmentation is no part of the closure); no batch normalization.

    Johnson and Zhang (2013), Accelerating Stochastic Gradient Descent using Predictive Variance Reduction;
    Defazio and Bottou (2019), On the Ineffectiveness of Variance Reduced Optimization for Deep Learning.

    Parameters
    ----------
    params, lr, momentum, dampening, weight_decay, nesterov
        As for ``torch.optim.SGD``.
    seed
        Of the random numbers of the snapshots' full gradients, which leave torch's global generators untouched.
    independent_noise
        Whether the two gradients of a step draw numbers of their own; for comparisons only.

    Raises
    ------
    ConfigError
        If a number is out of its range, or training is distributed over several processes.

    Examples
    --------
    Logistic regression:

    >>> x = torch.randn(200, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> y = (x[:, 0] > 0).double()
    >>> w = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    >>> optimizer = SVRG([w], lr=0.5, weight_decay=0.1)
    >>> def closure(rows):
    ...     optimizer.zero_grad()
    ...     loss = torch.nn.functional.binary_cross_entropy_with_logits(x[rows] @ w, y[rows])
    ...     loss.backward()
    ...     return loss
    >>> for epoch in range(20):
    ...     _ = optimizer.snapshot(closure, torch.arange(200).split(50))
    ...     for rows in torch.randperm(200).split(10):
    ...         _ = optimizer.step(lambda: closure(rows))
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
        self.state["svrg"] = {"seed": int(seed), "taken": 0, "fresh": False}  # type: ignore[index]  # saved with the rest

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with a saved state, which must be one of SVRG (see the base class)."""
        if "svrg" not in state_dict["state"]:
            raise ConfigError("SVRG: the saved state is of another optimizer, and has no snapshot to go on with")
        super().load_state_dict(state_dict)

    @property
    def ready(self) -> bool:
        """Whether there is a snapshot of all parameters."""
        return all("snapshot" in self.state.get(p, {}) for p in self.parameters())

    @torch.no_grad()
    def snapshot(self, closure: Callable[[Any], Any], batches: Iterable[Any], draws: int = 1) -> float:
        """Take a snapshot of the parameters, and work out the full gradient there.

        Parameters
        ----------
        closure
            Returns the mean loss over the rows of a batch, and leaves its gradient in ``.grad``.
        batches
            All rows once, in chunks that fit in memory; a chunk counts by its rows, the length of its (first) tensor.
        draws
            Passes over the data, each with random numbers of its own; 1 is enough for a loss without.

        Returns
        -------
        float
            The mean loss of all rows.

        Raises
        ------
        ConfigError
            If ``draws`` is less than 1, or a pass finds no rows.
        """
        refuse_distributed("SVRG")
        if draws < 1:
            raise ConfigError(f"SVRG.snapshot: draws is {draws}, it must be at least 1")
        params, about = self.parameters(), self.state["svrg"]  # type: ignore[index]
        kept, sums, total, loss = [p.grad for p in params], [torch.zeros_like(p) for p in params], 0, 0.0
        with torch.random.fork_rng(cuda_devices(params)):
            # seeded by a text: near seeds, and a user's, must not give the same numbers
            torch.manual_seed(random.Random(f"SVRG {about['seed']} {about['taken']}").getrandbits(63))
            for number in range(draws):
                before = total
                for batch in batches:
                    rows = rows_of(batch)
                    loss += rows * float(_run(closure, params, batch))
                    for p, sum_ in zip(params, sums, strict=True):
                        if p.grad is not None:
                            sum_.add_(p.grad, alpha=rows)
                    total += rows
                if total == before:
                    raise ConfigError(f"SVRG.snapshot: pass {number + 1} of {draws} over batches found no rows; give a "
                                      "list or a loader, which can be gone through again, and no iterator")  # fmt: skip
        for p, grad, sum_ in zip(params, kept, sums, strict=True):
            p.grad = grad
            self.state[p]["snapshot"] = p.detach().clone()
            self.state[p]["full_gradient"] = sum_.div_(total)
        about.update(taken=about["taken"] + 1, fresh=True)
        return loss / total

    @torch.no_grad()
    def correct(self, closure: Closure, random_state: RNGState) -> None:
        """Turn the mini-batch's gradient in ``.grad`` into the variance-reduced one.

        :meth:`step` does this by itself. Apart from it, it lets the gradient be clipped in between:
        ``state = optimizer.random_state(); closure(); optimizer.correct(closure, state); clip(...); optimizer.step()``.

        Parameters
        ----------
        closure
            As of :meth:`step`; evaluated at the snapshot.
        random_state
            That of :meth:`random_state` before the gradient at the current point was worked out.

        Raises
        ------
        EstimatorError
            If there is no snapshot, or the closure's random numbers are not common.
        """
        if not self.ready:
            raise EstimatorError("SVRG has no snapshot of all parameters yet: call snapshot(closure, batches) first")
        params, about = self.parameters(), self.state["svrg"]  # type: ignore[index]
        current, points = [p.grad for p in params], [p.data for p in params]
        moved = not all(p.equal(self.state[p]["snapshot"]) for p in params) if about["fresh"] else True
        try:
            for p in params:
                p.data = self.state[p]["snapshot"]
            with contextlib.nullcontext() if self.independent_noise else random_state.replayed():
                _run(lambda _: closure(), params, None)
            control = [p.grad for p in params]
        finally:
            for p, point, grad in zip(params, points, current, strict=True):
                p.data, p.grad = point, grad
        about["fresh"] = False
        if not moved and not self.independent_noise:
            _check_common(current, control)
        for p, now, then in zip(params, current, control, strict=True):
            if now is not None or then is not None:
                full = self.state[p]["full_gradient"]
                p.grad = full + (0 if now is None else now) - (0 if then is None else then)
        self._corrected = True

    def step(self, closure: Closure | None = None) -> Any:
        """Take a step.

        Parameters
        ----------
        closure
            Returns the mean loss of a mini-batch and leaves its gradient in ``.grad``; evaluated at the current point
            and at the snapshot. None after :meth:`correct`.

        Returns
        -------
        loss
            At the current point, as the closure returns it.

        Raises
        ------
        EstimatorError
            As :meth:`correct`; without a closure, if the gradient was not corrected.
        """
        loss = None
        if closure is not None:
            state, self._corrected = self.random_state(), False
            with torch.enable_grad():
                loss = closure()
            if not self._corrected:  # a closure of Lightning's has its callbacks do that, before clipping
                self.correct(closure, state)
        self._descend()
        return loss


def _run(closure: Callable[[Any], Any], params: list[Tensor], batch: Any) -> Any:
    """Return a closure's loss, and leave its gradient alone in ``.grad``."""
    for p in params:
        p.grad = None
    with torch.enable_grad():
        return closure(batch)


def _check_common(current: list[Tensor | None], control: list[Tensor | None]) -> None:
    gap, norm = distance(current, control)
    if gap > SAME * norm:
        raise EstimatorError(
            f"SVRG: at the snapshot itself, two gradients of one mini-batch differ by {gap:.3g} (their norm is "
            f"{norm:.3g}). The closure draws random numbers that do not come from torch's global generators (NumPy, a "
            "torch.Generator of its own), or changes a state (batch normalization, a moving average): a control "
            "variate with noise of its own adds variance. Draw from torch's global generators; for a comparison, "
            "independent_noise=True"
        )
