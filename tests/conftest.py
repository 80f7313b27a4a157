"""What all tests share: one thread a worker, since the operations are small, and torch's checks of parameters."""

import os
from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")  # scanpy's loops set OpenMP's number for torch too

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def checks_of_parameters() -> Iterator[None]:
    """The first torch.compile of a process turns them off for good, wherever it is called."""
    yield
    torch.distributions.Distribution.set_default_validate_args(True)
