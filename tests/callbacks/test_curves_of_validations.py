"""Curves with several validations per epoch, and the checkpoint of the best one in a report."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import vaekit
from vaekit.analysis.report.run_facts import read_run
from vaekit.callbacks import FigureWriter, RunCheckpoint

from .test_callbacks import run


def test_each_validation_is_a_point_and_the_best_checkpoint_is_not_interrupted(tmp_path: Path) -> None:
    writer = FigureWriter(figure="none")
    run(tmp_path, writer, RunCheckpoint(), max_epochs=2, val_check_interval=1)  # three steps per epoch
    np.testing.assert_allclose([epoch for epoch, _ in writer.history["val/elbo"]], np.arange(1, 7) / 3)
    assert len({value for _, value in writer.history["val/elbo"]}) == 6
    assert [epoch for epoch, _ in writer.history["train/elbo"]] == [1, 2]
    path = str(tmp_path / "best.ckpt")
    assert read_run(vaekit.load(path), path).is_best
    path = str(tmp_path / "last.ckpt")
    assert not read_run(vaekit.load(path), path).is_best
