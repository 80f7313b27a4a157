"""Stops a training whose loss is no longer a number, and says where it broke."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, distributed

from vaekit.exceptions import TrainingError

CHECK_EVERY = 50  # steps, on a device that would have to be waited for
SHOWN = 20  # rows in a message


class Step(NamedTuple):
    """What is kept of a training step until it has been checked."""

    number: int
    epoch: int
    rows: Tensor | None
    loss: Tensor
    terms: dict[str, Tensor]


class TerminateOnNonFinite(Callback):
    """Stops the training at a NaN or infinite loss, gradient or weight, with :class:`vaekit.exceptions.TrainingError`.

    The error names the step, the term of the bound that broke, the rows in which it did, and the rows of the batch.
    Nothing that is not finite is written to a checkpoint: the last good one stays.

    On the CPU each step is looked at before its gradient is worked out. On other devices, where to look at a number is
    to wait for it, losses and terms of the last 50 steps are kept there (some kilobytes each) and looked at together,
    at the end of an epoch, and before a checkpoint is written. Where several processes train, all of them
    stop, and name what broke in the first of those in which something did.
    """

    def __init__(self) -> None:
        self._rows: Tensor | None = None
        self._waiting: list[Step] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Note the rows (Lightning's hook)."""
        self._rows = getattr(batch, "index", None)

    def on_before_backward(self, trainer: pl.Trainer, pl_module: Any, loss: Tensor) -> None:
        """Take in a step, and look at it if that is the time (Lightning's hook)."""
        terms = getattr(pl_module, "step_terms", {})
        self._waiting.append(Step(trainer.global_step, trainer.current_epoch, self._rows, loss.detach(), terms))
        if loss.device.type == "cpu" or len(self._waiting) >= CHECK_EVERY:
            self.check()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        """Look at the gradient's norm where it is at hand (Lightning's hook)."""
        norm = getattr(pl_module, "gradient_norm", None)
        scaled = trainer.precision == "16-mixed"  # where it overflows now and then, and the scaler skips the step
        if norm is not None and norm.device.type == "cpu" and not scaled and not math.isfinite(norm.item()):
            raise TrainingError(
                f"the gradient's norm is {norm.item()} in step {trainer.global_step} (epoch {trainer.current_epoch}), "
                f"with a finite loss, in a batch of {_listed(self._rows)}; {_ADVICE}"
            )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Look at what was not looked at yet (Lightning's hook)."""
        self.check()

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Keep weights that are not finite out of checkpoints (Lightning's hook)."""
        self.check()
        bad = [name for name, value in pl_module.named_parameters() if not value.detach().isfinite().all()]
        if bad:
            raise TrainingError(
                f"{len(bad)} weights are not finite after step {trainer.global_step} (epoch {trainer.current_epoch}), "
                f"such as {', '.join(bad[:3])}; {_ADVICE}"
            )

    def check(self) -> None:
        """Raise an error if the loss of a waiting step is not finite; the steps are then forgotten.

        Raises
        ------
        TrainingError
            If so.
        """
        steps, self._waiting = self._waiting, []
        if len(steps) == 1:
            broken = [] if math.isfinite(steps[0].loss.item()) else steps
        elif steps:
            finite = torch.stack([step.loss for step in steps]).isfinite().tolist()  # one wait for all
            broken = [step for step, fine in zip(steps, finite, strict=True) if not fine]
        else:
            return
        message = _of_any_process(describe(broken[0]) if broken else None, steps[-1].loss.device)
        if message:
            raise TrainingError(message)


_ADVICE = (
    "no checkpoint was written after it, the last one is as it was: look at these rows, or train with a smaller "
    "learning_rate or gradient_clip_val"
)


def _of_any_process(message: str | None, device: torch.device) -> str | None:
    """Return the first process's message of those that have one: else the others would wait for its gradient."""
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return message
    count = torch.tensor(message is not None, dtype=torch.int64, device=device)
    distributed.all_reduce(count)
    if not count.item():
        return None
    messages: list[str | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(messages, message)
    return next(f"process {rank}: {each}" for rank, each in enumerate(messages) if each)


def describe(step: Step) -> str:
    """Return what broke in a step."""
    broken = {name: ~value.isfinite() for name, value in step.terms.items() if not value.isfinite().all()}
    parts: list[str] = []
    named: list[Tensor] = []  # the same rows are listed once
    for name, bad in broken.items():
        while bad.dim() > 1:  # axes of samples lead
            bad = bad.any(0)
        where = ""
        if step.rows is not None and bad.shape == step.rows.shape:  # a value that all rows share says nothing of rows
            same = any(bad.equal(other) for other in named)
            where = (
                " in all rows of the batch"
                if bad.all()
                else " in the same"
                if same
                else f" in {_listed(step.rows[bad])}"
            )
            named.append(bad)
        parts.append(f"the term {name!r} is not finite{where}")
    if not parts:
        parts.append("all terms of the bound are finite, and what the objective makes of them is not")
    return (
        f"the loss is {step.loss.item()} in step {step.number + 1} (epoch {step.epoch}): {'; '.join(parts)}; the batch "
        f"holds {_listed(step.rows)}; {_ADVICE}"
    )


def _listed(rows: Tensor | None) -> str:
    """Return row numbers in words."""
    if rows is None:
        return "rows without numbers"
    numbers = rows.tolist()
    more = f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
    return f"{'row' if len(numbers) == 1 else 'rows'} {', '.join(map(str, numbers[:SHOWN]))}{more}"
