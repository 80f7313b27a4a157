"""Whole trainings by captured steps: once a step is recorded nothing waits for the device, batches included.

On a GPU CUDA itself raises an error where the CPU would wait for it; without one the operations are looked at.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from scipy import sparse as scipy_sparse

from gpu.waiting import NoWaiting
from vaekit import DiscreteVAE
from vaekit.callbacks import CUDAGraphs, GradientClippingMonitor, TerminateOnNonFinite
from vaekit.data import GeneExpressionData
from vaekit.data.cells.count_dataset import CountsOnDevice
from vaekit.estimators import LearnedBaseline, MovingAverage, ScoreFunction
from vaekit.likelihoods import NegativeBinomial
from vaekit.likelihoods.counts import sparse
from vaekit.models import parameter_groups
from vaekit.models.cuda_graph import NUM_WARMUP_STEPS
from vaekit.networks import MLP

STEPS = 15  # in the one epoch
BASELINES = {"moving_average": MovingAverage, "learned": lambda: LearnedBaseline(MLP([4]))}
ON_A_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and this machine has none"),
]


class Watch(pl.Callback):
    """Refuses to wait from the first step that is played back to the last but one: in the last one Lightning logs.

    On a CPU, where batches are made without a device to wait for, it looks at what lies between their making.
    """

    def __init__(self) -> None:
        self.watched = 0
        self.recorded: Any = None
        self._steps = 0
        self._open = ExitStack()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        self._steps += 1
        if NUM_WARMUP_STEPS + 2 <= self._steps < STEPS:
            self.watched += 1
            if pl_module.device.type == "cpu":
                self._open.enter_context(NoWaiting())

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        if self._steps == NUM_WARMUP_STEPS + 1:
            self.recorded = pl_module.compute_step._captured
            if pl_module.device.type == "cuda":
                torch.cuda.set_sync_debug_mode("error")
                self._open.callback(torch.cuda.set_sync_debug_mode, "default")
        elif pl_module.device.type == "cpu" or self._steps == STEPS - 1:
            self._open.close()

    def on_exception(self, *args: Any) -> None:
        self._open.close()


def gpu_clip(parameters: Any, limit: float) -> torch.Tensor:
    """Clip as on a GPU, where the norm is not looked at."""
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return norm


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=ON_A_GPU)])
@pytest.mark.parametrize("baseline", BASELINES)
def test_no_step_of_a_training_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, baseline: str, device: str
) -> None:
    on_gpu = device == "cuda"
    if not on_gpu:  # the branches of a GPU, but for its kernel
        monkeypatch.setattr(parameter_groups, "clip_gradients", gpu_clip)
        monkeypatch.setattr(sparse, "_in_range", lambda *inputs: False)
    counts = np.random.default_rng(0).poisson(0.5, (600, 30)).astype(np.float32)
    data = GeneExpressionData(anndata.AnnData(scipy_sparse.csr_matrix(counts)), batch_size=32)
    torch.manual_seed(0)
    estimator = ScoreFunction(baseline=BASELINES[baseline]())
    model = DiscreteVAE(data.features, NegativeBinomial(), variables=2, categories=3, hidden=[8], estimator=estimator)
    before = [p.detach().clone() for p in model.parameters()]
    watch = Watch()
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="gpu" if on_gpu else "cpu",
        devices=1,
        # TerminateOnNonFinite looks at each loss on a CPU, where it does not wait for anything
        callbacks=[CUDAGraphs(), GradientClippingMonitor(), *[TerminateOnNonFinite()] * on_gpu, watch],
        gradient_clip_val=1.0,
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, datamodule=data)
    assert trainer.global_step == STEPS
    assert watch.watched == STEPS - NUM_WARMUP_STEPS - 2
    assert (watch.recorded is not None) == on_gpu
    assert isinstance(trainer.train_dataloader.dataset.dataset, CountsOnDevice) == on_gpu
    assert trainer.callback_metrics["train/reconstruction"].isfinite()
    assert all(p.isfinite().all() for p in model.parameters())
    assert any(not p.cpu().equal(old) for p, old in zip(model.parameters(), before, strict=True))
