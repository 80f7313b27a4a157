"""Number of torch's threads in training: unchanged by numba's pool, and without effect on the results."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from vaekit.batch import Batch
from vaekit.likelihoods.counts import sparse

TRAINING = """
import logging, sys
import torch
import vaekit
import numba
import pytorch_lightning as pl
from models.tiny import MODELS, counts, trainer
from torch.utils.data import DataLoader
from vaekit.likelihoods import NegativeBinomial

@numba.njit(parallel=True)
def scan(n):
    total = 0
    for i in numba.prange(n):
        total += i
    return total

class Watch(pl.Callback):
    def on_train_batch_start(self, *_):
        scan(10)
    def on_train_batch_end(self, *_):
        print("step", torch.get_num_threads())

when = sys.argv[1]
if when == "chosen":
    torch.set_num_threads(3)
if when == "before":
    scan(10)
    print("before", torch.get_num_threads())
logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.INFO)
loader = DataLoader([counts()], batch_size=None)
trainer(max_epochs=2, callbacks=[Watch()]).fit(MODELS["gaussian"](NegativeBinomial()), loader)
"""


@pytest.mark.parametrize(("when", "threads"), [("before", 2), ("chosen", 3)])
def test_training_keeps_the_number_of_threads(when, threads):
    """The pool starts in a training step, or before training as in scanpy."""
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "5"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    ended = subprocess.run([sys.executable, "-c", TRAINING, when], env=environment, capture_output=True, text=True,
                           check=True, timeout=300)  # fmt: skip
    steps = [line for line in ended.stdout.splitlines() if line.startswith("step")]
    assert steps == [f"step {threads}"] * 2
    assert f"training on {threads} threads of torch" in ended.stdout + ended.stderr
    assert ("changed it to 5" in ended.stdout + ended.stderr) == (when == "before")


def test_counts_are_evaluated_the_same_on_one_thread_and_on_two():
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    genes, cells = 700, 150
    x = torch.poisson(normal(cells, genes).exp(), generator=generator)
    logits, log_theta, gate = (
        part.requires_grad_() for part in (normal(cells, genes), normal(genes), normal(cells, genes))
    )

    def evaluate() -> list[Tensor]:
        value = sparse.log_prob(logits, Batch(x, x.sum(-1, keepdim=True)), log_theta, gate)
        return [value, *torch.autograd.grad(value.sum(), (logits, log_theta, gate))]

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    two_threads = evaluate()
    torch.set_num_threads(1)
    one_thread = evaluate()
    torch.set_num_threads(before)
    for one, other in zip(two_threads, one_thread, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)  # torch's sums are split between threads
