"""Termination of a training run whose loss, gradient or weights are not finite."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, distributed
from typing_extensions import override

from vaekit.exceptions import TrainingError
from vaekit.models.distributed import gather

CHECK_INTERVAL = 50  # steps, on a device that a check must wait for
MAX_LISTED = 20  # observations per message
REMEDY = (
    "The last checkpoint before this step is kept. Check these observations, or train with a smaller learning_rate or "
    "gradient_clip_val."
)


class Step(NamedTuple):
    """A training step that has not been checked."""

    number: int  # of steps before it
    epoch: int
    observations: Tensor | None  # indices [batch] in the data set
    loss: Tensor
    terms: dict[str, Tensor]  # [..., batch] or scalar


class TerminateOnNonFinite(Callback):
    """Callback that raises a ``TrainingError`` at a NaN or infinite loss, gradient or weight.

    The error names the step, the terms of the ELBO that are not finite, their observations and those of the mini-batch.
    No checkpoint is saved after that step.

    On the CPU, each step is checked before the gradient is computed. On other devices, where a check must wait for the
    device, the losses and terms of 50 steps stay there (some kilobytes each) and are checked together, and at the end
    of an epoch and before a checkpoint. In a distributed run, all processes stop with the error of the first failing
    rank.

    Examples
    --------
    >>> import pytorch_lightning as pl, vaekit
    >>> guard = vaekit.callbacks.TerminateOnNonFinite()
    >>> pl.Trainer(max_epochs=2, callbacks=[guard], logger=False, enable_progress_bar=False).fit(model, data)
    """

    def __init__(self) -> None:
        self._observations: Tensor | None = None
        self._steps: list[Step] = []

    @override
    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._observations = getattr(batch, "index", None)

    @override
    def on_before_backward(self, trainer: pl.Trainer, pl_module: Any, loss: Tensor) -> None:
        terms = getattr(pl_module, "step_terms", {})
        self._steps.append(Step(trainer.global_step, trainer.current_epoch, self._observations, loss.detach(), terms))
        if loss.device.type == "cpu" or len(self._steps) >= CHECK_INTERVAL:
            self.check()

    @override
    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        norm = getattr(pl_module, "gradient_norm", None)
        is_scaled = trainer.precision == "16-mixed"  # the gradient scaler skips steps that overflow
        if norm is not None and norm.device.type == "cpu" and not is_scaled and not math.isfinite(norm.item()):
            raise TrainingError(
                f"the norm of the gradient is {norm.item()} in step {trainer.global_step} (epoch "
                f"{trainer.current_epoch}), but the loss is finite. The batch has {_list(self._observations)}. {REMEDY}"
            )

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.check()

    @override
    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self.check()
        names = [name for name, value in pl_module.named_parameters() if not value.detach().isfinite().all()]
        if names:
            raise TrainingError(
                f"{len(names)} weights are not finite after step {trainer.global_step} (epoch "
                f"{trainer.current_epoch}), such as {', '.join(names[:3])}. {REMEDY}"
            )

    def check(self) -> None:
        """Check the stored steps, and remove them.

        Raises
        ------
        TrainingError
            If a loss is not finite, here or on another rank.
        """
        steps, self._steps = self._steps, []
        if not steps:
            return
        is_finite = torch.stack([step.loss for step in steps]).isfinite().tolist()  # waits for the device once
        failed = [step for step, finite in zip(steps, is_finite, strict=True) if not finite]
        message = _first_of_all_ranks(describe(failed[0]) if failed else None, steps[-1].loss.device)
        if message:
            raise TrainingError(message)


def _first_of_all_ranks(message: str | None, device: torch.device) -> str | None:
    """Return the message of the first rank that has one: a rank that continued would wait for the others' gradients."""
    if distributed.is_available() and distributed.is_initialized():
        count = torch.tensor(message is not None, dtype=torch.int64, device=device)
        distributed.all_reduce(count)
        if count.item():
            messages = [state["message"] for state in gather({"message": message})]
            return next(f"rank {rank}: {text}" for rank, text in enumerate(messages) if text)
    return message


def describe(step: Step) -> str:
    """Return an error message that names the non-finite terms of a step and their observations."""
    parts: list[str] = []
    masks: list[Tensor] = []
    for name, value in step.terms.items():
        mask = ~value.isfinite()
        if not mask.any():
            continue
        while mask.dim() > 1:  # sample dimensions lead
            mask = mask.any(0)
        location = ""
        if step.observations is not None and mask.shape == step.observations.shape:
            if mask.all():
                location = " for all observations of the batch"
            elif any(mask.equal(other) for other in masks):
                location = " for the same"
            else:
                location = f" for {_list(step.observations[mask])}"
            masks.append(mask)
        parts.append(f"the term {name!r} is not finite{location}")
    reason = "; ".join(parts) or "all terms of the ELBO are finite, but the loss of the objective is not"
    return (
        f"the loss is {step.loss.item()} in step {step.number + 1} (epoch {step.epoch}): {reason}. "
        f"The batch has {_list(step.observations)}. {REMEDY}"
    )


def _list(observations: Tensor | None) -> str:
    """Return the indices of observations as text."""
    if observations is None:
        return "observations with unknown indices"
    indices = observations.tolist()
    more = f" and {len(indices) - MAX_LISTED} more" if len(indices) > MAX_LISTED else ""
    return f"observation{'s' * (len(indices) != 1)} {', '.join(map(str, indices[:MAX_LISTED]))}{more}"
