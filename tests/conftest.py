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
    """Turn torch's checks on again: the first torch.compile of a process turns them off for good, for all of it."""
    yield
    torch.distributions.Distribution.set_default_validate_args(True)


@pytest.fixture
def no_checks_of_parameters() -> None:
    """Leave torch's checks out, as in every process that has compiled: they ask for values, which breaks a graph."""
    torch.distributions.Distribution.set_default_validate_args(False)
