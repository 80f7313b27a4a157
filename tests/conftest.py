"""Set-up of all tests: one thread per worker, since the operations are small, and torch's checks of parameters."""

import gc
import os
import signal
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")  # scanpy's loops set OpenMP's number for torch, too

import pytest
import torch
from exhaustive import mark_exhaustive

from vaekit._core import process

torch.set_num_threads(1)

# Modules that take more than twenty seconds. They begin first, so that both workers end together.
SLOW = (
    "test_notebooks",
    "test_documentation",
    "test_damage",
    "test_unbiased",
    "test_ddp",
    "test_invariance",
    "diagnostics/test_gradients",
    "test_configs",
    "test_counts_triton",
    "test_contract",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the flag of the table of results by form of the cells."""
    parser.addoption("--table", action="store_true", help="print the table of tests/analysis/test_invariance.py")


@pytest.hookimpl(tryfirst=True)  # before pytest selects by marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark exhaustive cases, and move the slow modules to the front.

    Workers take modules in this order (``--no-loadscope-reorder``).
    """
    mark_exhaustive(items)
    positions = {name: position for position, name in enumerate(SLOW)}

    def position(item: pytest.Item) -> int:
        return min((positions[name] for name in SLOW if f"{name}.py" in item.nodeid), default=len(SLOW))

    items.sort(key=position)


def pytest_collection_finish() -> None:
    """Leave all that was imported out of garbage collections, of which each would take half a second."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print a column per function and a row per form of the cells: the largest deviation over its tolerance."""
    if not config.getoption("--table"):
        return
    reports = [report for key in ("passed", "failed") for report in terminalreporter.stats.get(key, [])]
    cells: dict[str, dict[str, str]] = {}
    for report in reports:
        for key, value in report.user_properties:
            if key == "table":
                name, form, outcome, worst = value
                text = outcome if worst is None else f"{outcome} {worst:.2g}"
                cells.setdefault(form, {})[name] = text
    names = list(dict.fromkeys(name for row in cells.values() for name in row))
    for block in (names[i : i + 6] for i in range(0, len(names), 6)):
        terminalreporter.write_line("")
        terminalreporter.write_line(f"{'deviation / tolerance':26s}" + "".join(f"{name[:18]:>19s}" for name in block))
        for form, row in cells.items():
            terminalreporter.write_line(f"{form:26s}" + "".join(f"{row.get(name, '-'):>19s}" for name in block))


@pytest.fixture(autouse=True)
def checks_of_parameters() -> Iterator[None]:
    """Turn torch's checks on again after the test. The first torch.compile of a process turns them off for good."""
    yield
    torch.distributions.Distribution.set_default_validate_args(True)


@pytest.fixture
def no_checks_of_parameters() -> None:
    """Turn torch's checks off, as after torch.compile: they read values, which breaks a graph."""
    torch.distributions.Distribution.set_default_validate_args(False)


@pytest.fixture(autouse=True)
def no_command_line() -> Iterator[None]:
    """Let no test run as part of ``vaekit`` because an earlier one called its ``main``."""
    yield
    process.is_command_line = False


@pytest.fixture(autouse=True)
def interrupts() -> Iterator[None]:
    """Restore Python's handler of Ctrl-C, which an interrupted run of Lightning or a shell's background job ignores."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def seed() -> Iterator[None]:
    """Start each test from the same seed, and restore torch's generator afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
