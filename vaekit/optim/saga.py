"""SAGA: the last gradient of each example, or of each mini-batch, as control variate."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vaekit.exceptions import ConfigError, EstimatorError, format_bytes
from vaekit.optim.linear import check_linear, check_rows, check_shapes, derivatives, pull_back
from vaekit.optim.loss_rng import RNGState
from vaekit.optim.variance_reduced_sgd import VarianceReducedSGD, extent


class SAGA(VarianceReducedSGD):
    r"""SGD with a table of earlier gradients as its control variate.

    .. math:: w_{t+1} = w_t - \eta \Big(\nabla F_j(w_t) - g_j + \frac{1}{m} \sum_k g_k + \lambda w_t\Big), \qquad
              g_j \leftarrow \nabla F_j(w_t)

    with j uniform over the entries of the table, which starts at zero; the estimate is then unbiased. A step takes one
    gradient, and there is no full pass. For a strongly convex sum a constant step converges linearly. Entries taken in
    random order, each once an epoch, converge too, often faster.

    The table holds one of two things:

    - ``examples`` and ``outputs``: of a model whose output is linear in its parameters (logistic regression, a linear
      layer on fixed features), the derivative of each example's loss by its ``outputs`` numbers; the gradient is the
      Jacobian times that. Memory: ``examples * outputs`` numbers. Mini-batches may be any.
    - ``batch_sizes``: the gradient of each mini-batch of a fixed partition of the data (:class:`FixedBatchSampler`), for any
      model. Memory: as many times the parameters as there are mini-batches. Mini-batches of other sizes count by their
      rows: the difference above is multiplied by :math:`m n_j / n`, and the mean is weighted.

    Its memory, with that of the mean, is in ``memory`` and in the log before training, and refused over ``budget``.

    **Random losses** (sampled latents, dropout) are refused: the table's gradients were made with other random numbers
    than the current one, none are common, and the variance by them is :math:`2 - 1/m` times that of a mini-batch's own.
    Use :class:`SVRG`, or a loss without noise (``Enumerate``, no dropout).

    Defazio, Bach and Lacoste-Julien (2014), SAGA: A Fast Incremental Gradient Method With Support for Non-Strongly
    Convex Composite Objectives.

    Parameters
    ----------
    params, lr, momentum, dampening, weight_decay, nesterov
        As for ``torch.optim.SGD``; no group can be added later.
    batch_sizes
        Rows of each mini-batch of the partition.
    examples, outputs
        In place of it: examples in the data, and the width of the model's output.
    max_bytes
        Bytes that table and mean may take.
    independent_noise
        Whether a random loss is accepted; for comparisons only.

    Attributes
    ----------
    memory
        Bytes of table and mean.

    Raises
    ------
    ConfigError
        If a number is out of its range, the memory is over the budget, or training is distributed.

    Examples
    --------
    Logistic regression, with a table of one number an example:

    >>> x = torch.randn(200, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> y = (x[:, 0] > 0).double()
    >>> w = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    >>> optimizer = SAGA([w], lr=0.5, weight_decay=0.1, examples=200, outputs=1)
    >>> optimizer.memory  # 200 derivatives and a mean gradient of 5
    1640
    >>> loss = torch.nn.functional.binary_cross_entropy_with_logits
    >>> for step in range(400):
    ...     rows = torch.randperm(200)[:20]
    ...     def closure():
    ...         logits = x[rows] @ w
    ...         return loss(logits, y[rows], reduction="none"), logits
    ...     _ = optimizer.step(closure, rows)
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
        examples: int | None = None,
        outputs: int | None = None,
        max_bytes: int = 2**30,
        independent_noise: bool = False,
    ) -> None:
        given = f"batch_sizes is {batch_sizes}, examples {examples}, outputs {outputs}"
        if (batch_sizes is None) == (examples is None) or (examples is None) != (outputs is None):
            raise ConfigError(f"SAGA: {given}: give either the sizes of the mini-batches, or both of the others for a "
                              "model whose output is linear in its parameters")  # fmt: skip
        shape = [] if examples is None or outputs is None else [examples, outputs]
        self._sizes = [] if batch_sizes is None else [int(size) for size in batch_sizes]
        if min([*shape, *self._sizes], default=0) < 1:
            raise ConfigError(f"SAGA: {given}: each must be 1 at least, and there must be a mini-batch")
        super().__init__(params, lr, momentum, dampening, weight_decay, nesterov, independent_noise)
        owned = self.parameters()
        numbers = sum(p.numel() * p.element_size() for p in owned)
        table = math.prod(shape) * owned[0].element_size() if shape else len(self._sizes) * numbers
        self.memory = table + numbers
        what = f"{shape[0]} x {shape[1]} derivatives" if shape else f"the gradients of {len(self._sizes)} mini-batches"
        text = f"SAGA: a table of {what}, and their mean, take {format_bytes(self.memory)}"
        if self.memory > max_bytes:
            raise ConfigError(f"{text}, over the max_bytes of {format_bytes(max_bytes)}: raise it, take fewer and larger "
                              "mini-batches, or use SVRG, which keeps two copies of the parameters")  # fmt: skip
        logging.getLogger("vaekit").info(text)
        about: dict[str, Any] = {"sizes": self._sizes}
        if shape:
            about.update(table=owned[0].detach().new_zeros(shape), checked=False)
        self.state["saga"] = about  # type: ignore[index]  # saved with the rest
        for p in owned:
            self.state[p]["mean"] = torch.zeros_like(p, requires_grad=False)
            if not shape:
                self.state[p]["table"] = p.detach().new_zeros((len(self._sizes), *p.shape))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters; refused once there is a table (see the base class)."""
        if "saga" in self.state:
            raise ConfigError("SAGA: parameters cannot be added once there is a table; make a new optimizer")
        super().add_param_group(param_group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with a saved state, if its table fits this one (see the base class)."""
        mine, saved = (extent(state.get("saga")) for state in (self.state, state_dict["state"]))  # type: ignore[call-overload]
        if mine != saved:
            raise ConfigError(f"SAGA: the saved table is of {saved}, and this one of {mine}: they must be the same")
        super().load_state_dict(state_dict)

    @torch.no_grad()
    def correct(self, entry: int, random_state: RNGState) -> None:
        """Turn a mini-batch's gradient in ``.grad`` into the variance-reduced one, and note it in the table.

        :meth:`step` does this by itself; apart, it lets the gradient be clipped in between.

        Parameters
        ----------
        entry
            Number of the mini-batch.
        random_state
            That of :meth:`random_state` before the gradient was worked out.

        Raises
        ------
        EstimatorError
            If random numbers were drawn since.
        ConfigError
            If there is no such entry, or the table is one of examples.
        """
        if not 0 <= entry < len(self._sizes):
            raise ConfigError(
                f"SAGA: entry is {entry}, and the table has {len(self._sizes)} mini-batches, numbered from 0"
                + ("" if self._sizes else ": it is one of examples, which step(closure, rows) alone can correct")
            )
        self._refuse_noise(random_state)
        share = self._sizes[entry] / sum(self._sizes)
        for p in self.parameters():
            mean, old = self.state[p]["mean"], self.state[p]["table"][entry]
            change = -old if p.grad is None else p.grad - old
            p.grad = torch.add(mean, change, alpha=share * len(self._sizes))
            mean.add_(change, alpha=share)
            old.add_(change)
        self._corrected = True

    def step(self, closure: Any = None, entry: Any = None) -> Any:
        """Take a step.

        Parameters
        ----------
        closure
            With ``batch_sizes``: returns the mean loss of a mini-batch and leaves its gradient in ``.grad``; None after
            :meth:`correct`. With ``examples``: returns the losses ``[rows]`` and the outputs ``[rows, outputs]`` that
            they are made from, without a backward pass.
        entry
            Number of the mini-batch; or of the examples, int64 ``[rows]``, all different.

        Returns
        -------
        loss
            As the closure returns it, or the mean of its losses.

        Raises
        ------
        EstimatorError
            If the loss is random.
        ConfigError
            If there is no such entry, or the model's output is not linear in its parameters.
        """
        loss = None
        if closure is not None:
            state, self._corrected = self.random_state(), False
            if self._sizes:
                with torch.enable_grad():
                    loss = closure()
                if not self._corrected:  # a closure of Lightning's has its callbacks do that, before clipping
                    self.correct(-1 if entry is None else int(entry), state)
            else:
                loss = self._step_examples(closure, entry, state)
        self._descend()
        return loss

    def _step_examples(self, closure: Any, entry: Any, state: RNGState) -> Tensor:
        """Work out the corrected gradient of some examples, and note their derivatives."""
        about: Any = self.state["saga"]  # type: ignore[index]
        table, params = about["table"], self.parameters()
        rows = check_rows(entry, len(table)).to(table.device)
        if not about["checked"]:
            check_linear(closure, params)
            about["checked"] = True
        losses, outputs = closure()
        check_shapes(losses, outputs, len(rows), table.shape[1])
        new = derivatives(losses, outputs)
        change = new.reshape(len(rows), -1) - table[rows]
        gradients = pull_back(outputs, change.view_as(outputs), params)
        self._refuse_noise(state)
        for p, gradient in zip(params, gradients, strict=True):
            mean = self.state[p]["mean"]
            p.grad = mean.clone() if gradient is None else torch.add(mean, gradient, alpha=1 / len(rows))
            if gradient is not None:
                mean.add_(gradient, alpha=1 / len(table))
        table[rows] += change
        self._corrected = True
        return losses.detach().mean()

    def _refuse_noise(self, state: RNGState) -> None:
        if not self.independent_noise and state.advanced:
            raise EstimatorError(
                "SAGA: the loss drew random numbers (sampled latents, dropout). The table's gradients have drawn "
                "others: their noise would be added, not cancelled. Use SVRG, whose two gradients draw the same "
                "numbers, or a loss without noise; for a comparison, independent_noise=True"
            )
