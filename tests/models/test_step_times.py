"""Threads chosen by the first training steps, and the warning of slow steps; the clock is simulated."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vaekit.models import step_times
from vaekit.models.step_times import MIN_STEPS, ROUNDS, STEPS, WINDOW, StepTimes

TRAINING = """
import logging, sys
import torch
import vaekit
from models.tiny import MODELS, counts, trainer
from torch.utils.data import DataLoader
from vaekit._core.threads import available_threads, set_threads
from vaekit.likelihoods import NegativeBinomial

logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.INFO)
loader = DataLoader([counts()] * 10, batch_size=None)
first = trainer(max_steps=1000, max_epochs=-1)
first.fit(MODELS["gaussian"](NegativeBinomial()), loader)
first.save_checkpoint(sys.argv[1])
print("chosen", torch.get_num_threads())
set_threads(available_threads)
resumed = trainer(max_steps=1010, max_epochs=-1)
resumed.fit(MODELS["gaussian"](NegativeBinomial()), loader, ckpt_path=sys.argv[1])
print("resumed", torch.get_num_threads())
"""


class Clock:
    """Time that passes as told."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        """Return the time in seconds."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Simulate the time and a machine of four idle cores, whose user chose no number of threads."""
    clock = Clock()
    monkeypatch.setattr(step_times, "time", clock)
    monkeypatch.setattr(step_times, "available_threads", 4)
    monkeypatch.setattr(step_times, "is_chosen_by_user", lambda: False)
    threads = torch.get_num_threads()
    yield clock
    torch.set_num_threads(threads)


def train(clock: Clock, milliseconds: dict[int, float], times: StepTimes | None = None, steps: int = MIN_STEPS) -> Any:
    """Run the callback through steps that take the given time at each number of threads; return it and the lines."""
    times, lines = times or StepTimes(), []
    bar = SimpleNamespace(print=lines.append)
    trainer: Any = SimpleNamespace(world_size=1, estimated_stepping_batches=steps, global_step=0, is_global_zero=True,
                                   progress_bar_callback=bar)  # fmt: skip
    model: Any = SimpleNamespace(device=torch.device("cpu"))
    times.on_fit_start(trainer, model)
    numbers = []
    for _ in range(min(steps, 3 * ROUNDS * STEPS)):
        times.on_train_batch_start(trainer, model)
        numbers.append(torch.get_num_threads())
        clock.now += milliseconds[torch.get_num_threads()] / 1e3
        times.on_train_batch_end(trainer, model)
    return times, lines, numbers


def test_the_fastest_number_of_threads_is_kept(clock):
    times, lines, numbers = train(clock, {1: 10.0, 2: 6.0, 4: 8.0})
    assert times.threads == torch.get_num_threads() == 2
    assert lines == [
        "training on 2 threads of torch, measured by its first steps (10 ms on 1, 6 ms on 2, 8 ms on 4); "
        "OMP_NUM_THREADS=N sets another number"
    ]
    assert numbers == ([1] * STEPS + [2] * STEPS + [4] * STEPS) * ROUNDS


def test_more_threads_need_a_gain(clock):
    assert train(clock, {1: 10.0, 2: 9.5, 4: 9.4})[0].threads == 1


def test_steps_on_busy_cores_are_few(clock):
    times, _, numbers = train(clock, {1: 10.0, 2: 300.0, 4: 900.0})
    assert times.threads == 1
    assert numbers.count(2) == numbers.count(4) == 3


def test_short_training_is_not_measured(clock):
    before = torch.get_num_threads()
    times, lines, numbers = train(clock, {before: 10.0}, steps=MIN_STEPS - 1)
    assert times.threads is None
    assert set(numbers) == {before}
    assert not lines  # above the bar


def test_slow_steps_are_reported_once(clock):
    times = StepTimes()
    trainer: Any = SimpleNamespace()

    def run(steps: int, duration: float) -> None:
        for _ in range(steps):
            times.on_train_batch_start(trainer, trainer)
            clock.now += duration
            times.on_train_batch_end(trainer, trainer)

    run(4 * WINDOW, 0.01)
    with pytest.warns(UserWarning, match="20 times as long as usual") as warned:
        run(3 * WINDOW, 0.2)
    assert len(warned) == 1


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="a machine of one core has no choice")
def test_the_choice_is_stored_and_restored(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", TRAINING, str(tmp_path / "first.ckpt")]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=True)
    chosen, resumed = (line.split()[1] for line in ended.stdout.splitlines() if line.startswith(("chosen", "resumed")))
    assert chosen == resumed
    output = ended.stdout + ended.stderr
    assert "measured by its first steps" in output
    assert f"training on {chosen} thread" in output
    assert "their number before the interruption" in output
    state = torch.load(tmp_path / "first.ckpt", weights_only=True)["callbacks"]["StepTimes"]
    assert state == {"threads": int(chosen)}
