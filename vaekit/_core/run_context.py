"""Contexts of a training run in Python: seeds, the handler of Ctrl-C, and notices of Lightning."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.seed import isolate_rng

from vaekit._core.arguments import check_seed


@contextlib.contextmanager
def restored_interrupt() -> Iterator[None]:
    """Restore the handler of Ctrl-C, which Lightning replaces after an interrupt."""
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if is_main:
            signal.signal(signal.SIGINT, handler)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the generators like ``vaekit fit --seed_everything``, and restore them and the environment at the end."""
    seed = check_seed(seed)
    names = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")
    before = {name: os.environ.get(name) for name in names}
    with isolate_rng(include_cuda=torch.cuda.is_available()):
        try:
            pl.seed_everything(seed, verbose=False)
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide the notices of Lightning on devices and workers."""
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    logger.setLevel(max(level, logging.WARNING))
    try:
        with warnings.catch_warnings():
            for message in (".*does not have many workers.*", ".*isinstance.treespec, LeafSpec.*", ".*is not empty.*"):
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        logger.setLevel(level)
