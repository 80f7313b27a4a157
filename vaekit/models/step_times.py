"""Times of the training steps: the number of threads that makes them fastest, and a warning when they become slow."""

from __future__ import annotations

import statistics
import time
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_warn
from typing_extensions import override

from vaekit._core.announce import announce, announce_start
from vaekit._core.threads import available_threads, describe_threads, is_chosen_by_user, keep_threads, set_threads

MIN_STEPS = 1_000  # of a training that repays the slow ones among the measured steps
ROUNDS, STEPS, SKIPPED = 2, 8, 2  # of each number of threads; the first steps of a round start the threads
MIN_GAIN = 1.1  # of a larger number of threads: they also take cores from other programs
HOPELESS = 5.0  # times as long as a step on one thread
WINDOW = 50  # steps, whose mean time is compared with the median of earlier windows
SLOW = 10.0


class StepTimes(pl.Callback):
    """Measurement of the first training steps with 1, 2, 4, ... threads of torch, of which it keeps the best number.

    The measured steps are ordinary steps of training. The choice is stored in the checkpoint and restored in a resumed
    run, because results are equal to the last bit only for equal numbers of threads. Nothing is measured, and the
    number stays, if the user set it (``OMP_NUM_THREADS`` or ``torch.set_num_threads``), for fewer than 1,000 steps, in
    several processes, or on a GPU.

    Later it warns, once, if steps take ten times their usual time: another program uses the cores then.
    """

    def __init__(self) -> None:
        self.threads: int | None = None  # that were chosen
        self._durations: dict[int, list[float]] = {}  # by number of threads, in seconds
        self._schedule: list[int] = []  # numbers of threads of the next measured steps, the next one last
        self._started = 0.0
        self._window: list[float] = []
        self._windows: list[float] = []
        self._has_warned = False

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"threads": self.threads}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.threads = state_dict["threads"]

    @override
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        reason = keep_threads()
        self._schedule, self._durations = [], {}
        if is_chosen_by_user() or trainer.world_size > 1 or pl_module.device.type != "cpu":
            self.threads = None
        elif self.threads is not None:
            set_threads(min(self.threads, available_threads))
            reason = "their number before the interruption"
        elif available_threads > 1 and trainer.estimated_stepping_batches >= MIN_STEPS:
            candidates = [2**k for k in range(available_threads.bit_length()) if 2**k < available_threads]
            self._schedule = [n for n in [available_threads, *candidates[::-1]] for _ in range(STEPS)] * ROUNDS
            return
        announce_start(trainer, describe_threads(torch.get_num_threads(), reason))

    @override
    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if self._schedule and torch.get_num_threads() != self._schedule[-1]:
            set_threads(self._schedule[-1])
        self._started = time.perf_counter()

    @override
    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        duration = time.perf_counter() - self._started
        if self._schedule:
            self._measured(self._schedule.pop(), duration)
            if not self._schedule:
                self._choose(trainer)
        elif not self._has_warned:
            self._watch(duration)

    def _measured(self, threads: int, duration: float) -> None:
        """Record a step; a number of threads whose steps are hopelessly slow, as on busy cores, is measured no more."""
        durations = self._durations.setdefault(threads, [])
        durations.append(duration)
        fewest = self._durations[min(self._durations)]
        if len(durations) > SKIPPED and statistics.median(durations[-3:]) > HOPELESS * statistics.median(fewest):
            self._schedule = [n for n in self._schedule if n != threads]

    def _choose(self, trainer: pl.Trainer) -> None:
        """Keep the smallest number of threads that is nearly as fast as the best one."""
        milliseconds = {n: 1e3 * _typical(durations) for n, durations in sorted(self._durations.items())}
        self.threads = next(n for n, value in milliseconds.items() if value <= MIN_GAIN * min(milliseconds.values()))
        set_threads(self.threads)
        times = ", ".join(f"{value:.3g} ms on {n}" for n, value in milliseconds.items())
        announce(trainer, describe_threads(self.threads, f"measured by its first steps ({times})"))

    def _watch(self, duration: float) -> None:
        """Warn if the steps of a window took much longer than usual."""
        self._window.append(duration)
        if len(self._window) < WINDOW:
            return
        mean = statistics.fmean(self._window)
        self._window.clear()
        usual = statistics.median(self._windows[-100:] or [mean])
        self._windows.append(mean)
        if mean < SLOW * usual:
            return
        self._has_warned = True
        threads = torch.get_num_threads()
        remedy = "End them, or stop and resume with OMP_NUM_THREADS=1." if threads > 1 else "End them."
        rank_zero_warn(
            f"steps take {1e3 * mean:.3g} ms, {mean / usual:.0f} times as long as usual, on {threads} thread(s) of "
            f"torch: other programs probably use the cores. {remedy}"
        )


def _typical(durations: list[float]) -> float:
    """Return the median, without the first steps of each round."""
    return statistics.median(t for first in range(0, len(durations), STEPS) for t in durations[first:][SKIPPED:STEPS])
