"""Early stopping by the validation ELBO, also of runs that are resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytorch_lightning as pl

from vaekit.callbacks import ELBOEarlyStopping, RunCheckpoint

from .test_callbacks import run


class Worse(pl.Callback):
    """Callback that replaces each ELBO of a validation by a lower one."""

    def on_validation_end(self, trainer: pl.Trainer, *args: object) -> None:
        trainer.callback_metrics["val/elbo"].fill_(-float(trainer.global_step))


def train(directory: Path, patience: int, ckpt_path: str | None = None, **kwargs: int) -> pl.Trainer:
    callbacks = [Worse(), ELBOEarlyStopping(patience), RunCheckpoint()]
    return run(directory, *callbacks, ckpt_path=ckpt_path, val_check_interval=1, **kwargs)


def test_a_run_that_has_ended_is_not_resumed_except_with_more_patience(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[str] = []

    def note(line: str) -> None:
        if "threads" not in line and "thread of" not in line:
            messages.append(line)

    monkeypatch.setattr("vaekit._core.announce.rank_zero_info", note)
    assert train(tmp_path, 1, max_steps=9).global_step == 2  # within the first epoch, whose number is 0
    assert "Training ended at step 2: 1 validations without a new best ELBO" in messages[-1]
    last = str(tmp_path / "last.ckpt")
    assert train(tmp_path, 1, last, max_steps=9).global_step == 2
    assert len(messages) == 2
    assert "Training ended at step 2" in messages[-1]
    assert train(tmp_path, 9, last, max_steps=5).global_step == 5
    assert len(messages) == 2
