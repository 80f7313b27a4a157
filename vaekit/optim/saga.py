"""SAGA: SGD with the last gradient of each mini-batch, or each observation, as control variate."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from vaekit.exceptions import ConfigError, EstimatorError, format_bytes
from vaekit.optim.linear import check_indices, check_linear, check_shapes, output_derivatives, pull_back
from vaekit.optim.loss_rng import RNGState
from vaekit.optim.variance_reduced_sgd import VarianceReducedSGD


class SAGA(VarianceReducedSGD):
    r"""SGD with a table of earlier gradients as its control variate.

    .. math:: w_{t+1} = w_t - \eta \Big(\nabla F_j(w_t) - g_j + \frac{1}{m} \sum_k g_k + \lambda w_t\Big), \qquad
              g_j \leftarrow \nabla F_j(w_t)

    with j uniform over the m entries of the table, which start at zero. The estimate is then unbiased. A step computes
    one gradient, and there is no full pass. For a strongly convex sum a constant step converges linearly. Entries in
    random order, each once per epoch, converge too, often faster.

    The table contains one of two things:

    - ``batch_sizes``: the gradient of each mini-batch of a fixed partition of the data
      (:class:`vaekit.optim.FixedBatchSampler`), for any model. Memory: the parameters times the number of mini-batches.
      If their sizes differ, the difference above is weighted by :math:`m n_j / n`, and so is the mean.
    - ``num_observations`` and ``num_outputs``: the derivatives of each observation's loss with respect to the outputs
      of a model that is linear in its parameters (logistic regression, a linear layer on fixed features). The gradient
      is their product with the Jacobian. Memory: ``num_observations * num_outputs`` numbers, for any mini-batches.

    The optimizer logs its memory before training, and rejects more than ``max_bytes``.

    **Random losses** (sampled latents, dropout) are rejected. The gradients of the table have other random numbers than
    the current one, which multiplies the variance that they cause by :math:`2 - 1/m`. Use
    :class:`vaekit.optim.SVRG`, or a loss without noise (``Enumerate``, no dropout).

    Defazio, Bach and Lacoste-Julien (2014), SAGA: A Fast Incremental Gradient Method With Support for Non-Strongly
    Convex Composite Objectives.

    Parameters
    ----------
    params, lr, momentum, dampening, weight_decay, nesterov
        As for ``torch.optim.SGD``. No group can be added later.
    batch_sizes : sequence of int or None
        Number of observations of each mini-batch of the partition.
    num_observations, num_outputs : int or None
        Number of observations in the data and width of the model's output, instead of ``batch_sizes``.
    max_bytes : int
        Largest memory of table and mean, in bytes.
    independent_noise : bool
        Whether a random loss is accepted, for comparisons only.

    Attributes
    ----------
    memory : int
        Memory of table and mean, in bytes.

    Raises
    ------
    ConfigError
        If a number is out of its range, the memory exceeds ``max_bytes``, or training is distributed.

    Examples
    --------
    Logistic regression, with a table of one number per observation:

    >>> x = torch.randn(200, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> y = (x[:, 0] > 0).double()
    >>> w = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    >>> optimizer = SAGA([w], lr=0.5, weight_decay=0.1, num_observations=200, num_outputs=1)
    >>> optimizer.memory  # 200 derivatives and a mean gradient of 5
    1640
    >>> loss = torch.nn.functional.binary_cross_entropy_with_logits
    >>> for step in range(400):
    ...     index = torch.randperm(200)[:20]
    ...     def closure():
    ...         logits = x[index] @ w
    ...         return loss(logits, y[index], reduction="none"), logits
    ...     _ = optimizer.step(closure, index)
    >>> gradient = torch.autograd.grad(loss(x @ w, y), w)[0] + 0.1 * w
    >>> bool(gradient.norm() < 1e-6)
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
        batch_sizes: Sequence[int] | None = None,
        num_observations: int | None = None,
        num_outputs: int | None = None,
        max_bytes: int = 2**30,
        independent_noise: bool = False,
    ) -> None:
        shape = [size for size in (num_observations, num_outputs) if size is not None]
        self._sizes = [] if batch_sizes is None else [int(size) for size in batch_sizes]
        if len(shape) != (2 if batch_sizes is None else 0) or min([*shape, *self._sizes], default=0) < 1:
            raise ConfigError(
                f"SAGA: batch_sizes={batch_sizes}, num_observations={num_observations}, num_outputs={num_outputs} must "
                "be positive. Give either the sizes of the mini-batches, or both numbers of a linear model."
            )
        super().__init__(params, lr, momentum, dampening, weight_decay, nesterov, independent_noise)
        params = self.parameters()
        gradient_bytes = sum(p.numel() * p.element_size() for p in params)
        table_bytes = math.prod(shape) * params[0].element_size() if shape else len(self._sizes) * gradient_bytes
        self.memory = table_bytes + gradient_bytes
        subject = f"{shape[0]} x {shape[1]} derivatives" if shape else f"gradients of {len(self._sizes)} mini-batches"
        message = f"SAGA: a table of {subject} and their mean take {format_bytes(self.memory)}"
        if self.memory > max_bytes:
            raise ConfigError(
                f"{message}, over max_bytes={format_bytes(max_bytes)}. Raise it, use fewer and larger mini-batches, or "
                "SVRG, which stores two copies of the parameters."
            )
        logging.getLogger("vaekit").info(message)
        settings: dict[str, Any] = {"sizes": self._sizes}
        if shape:
            settings.update(table=params[0].detach().new_zeros(shape), checked=False)
        self.state["saga"] = settings  # type: ignore[index]  # stored with the optimizer's state
        for p in params:
            self.state[p]["mean"] = torch.zeros_like(p, requires_grad=False)
            if not shape:
                self.state[p]["table"] = p.detach().new_zeros((len(self._sizes), *p.shape))

    @override
    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if "saga" in self.state:
            raise ConfigError("SAGA: parameters cannot be added to an existing table. Create a new optimizer.")
        super().add_param_group(param_group)

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        current, saved = (_describe_table(state.get("saga")) for state in (self.state, state_dict["state"]))  # type: ignore[call-overload]
        if current != saved:
            raise ConfigError(f"SAGA: the saved state belongs to {saved}, but this optimizer to {current}.")
        super().load_state_dict(state_dict)

    @torch.no_grad()
    def correct(self, entry: int, rng_state: RNGState) -> None:
        """Convert a mini-batch's gradient in ``.grad`` to the variance-reduced one, and store it in the table.

        :meth:`step` calls it. A separate call allows to clip the gradient in between.

        Parameters
        ----------
        entry : int
            Index of the mini-batch.
        rng_state : RNGState
            The result of :meth:`rng_state` before the gradient was computed.

        Raises
        ------
        EstimatorError
            If random numbers were drawn since.
        ConfigError
            If there is no entry of this index, or the table contains observations.
        """
        if not 0 <= entry < len(self._sizes):
            kind = "" if self._sizes else " It contains observations, so only step(closure, index) corrects it."
            raise ConfigError(f"SAGA: entry={entry} not found in a table of {len(self._sizes)} mini-batches.{kind}")
        self._reject_noise(rng_state)
        fraction = self._sizes[entry] / sum(self._sizes)
        for p in self.parameters():
            mean, old = self.state[p]["mean"], self.state[p]["table"][entry]
            change = -old if p.grad is None else p.grad - old
            p.grad = torch.add(mean, change, alpha=fraction * len(self._sizes))
            mean.add_(change, alpha=fraction)
            old.add_(change)
        self._corrected = True

    @override
    def step(self, closure: Any = None, entry: Any = None) -> Any:
        """Take a step.

        Parameters
        ----------
        closure : Callable or None
            With ``batch_sizes`` it returns the mean loss of a mini-batch and stores the gradient in ``.grad``; None
            after :meth:`correct`. With ``num_observations`` it returns the losses ``[batch]`` and the outputs
            ``[batch, num_outputs]`` that determine them, without a backward pass.
        entry : int or Tensor
            Index of the mini-batch, or distinct indices of the observations, int64 ``[batch]``.

        Returns
        -------
        loss
            The result of the closure, or the mean of its losses.

        Raises
        ------
        EstimatorError
            If the loss is random.
        ConfigError
            If there is no entry of this index, or the outputs are not linear in the parameters.
        """
        loss = None
        if closure is not None:
            state, self._corrected = self.rng_state(), False
            if self._sizes:
                with torch.enable_grad():
                    loss = closure()
                if not self._corrected:  # Lightning's closure corrects in a callback, before clipping
                    self.correct(-1 if entry is None else int(entry), state)
            else:
                loss = self._correct_observations(closure, entry, state)
        self._descend()
        return loss

    def _correct_observations(self, closure: Any, indices: Any, state: RNGState) -> Tensor:
        """Compute the corrected gradient of some observations, store their derivatives and return the mean loss."""
        settings: Any = self.state["saga"]  # type: ignore[index]
        table, params = settings["table"], self.parameters()
        index = check_indices(indices, len(table)).to(table.device)
        if not settings["checked"]:
            check_linear(closure, params)
            settings["checked"] = True
        losses, outputs = closure()
        check_shapes(losses, outputs, len(index), table.shape[1])
        change = output_derivatives(losses, outputs).reshape(len(index), -1) - table[index]
        gradients = pull_back(outputs, change.view_as(outputs), params)
        self._reject_noise(state)
        for p, gradient in zip(params, gradients, strict=True):
            mean = self.state[p]["mean"]
            p.grad = mean.clone() if gradient is None else torch.add(mean, gradient, alpha=1 / len(index))
            if gradient is not None:
                mean.add_(gradient, alpha=1 / len(table))
        table[index] += change
        self._corrected = True
        return losses.detach().mean()

    def _reject_noise(self, state: RNGState) -> None:
        if not self.independent_noise and state.advanced:
            raise EstimatorError(
                "SAGA: the loss drew random numbers (sampled latents, dropout). The table's gradients have other ones, "
                "which add noise instead of canceling it. Use SVRG, whose two gradients have common random numbers, or "
                "a loss without noise, or independent_noise=True for a comparison."
            )


def _describe_table(settings: Any) -> str:
    if settings is None:
        return "another optimizer"
    return f"{len(settings['table'])} observations" if "table" in settings else f"mini-batches of {settings['sizes']}"
