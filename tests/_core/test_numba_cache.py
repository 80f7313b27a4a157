"""The first compilation of a loop of vaekit is announced once, that of other packages is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
from vaekit._core.numba_cache import cached_njit

def compiled(module):
    def double(x):
        return 2 * x

    double.__module__ = module
    return cached_njit()(double)

compiled("other")(1)
print("before")
first = compiled("vaekit.likelihoods")
print(first(1), first(1.5), compiled("vaekit.data")(1))
"""


def test_the_first_compilation_is_announced_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    command = [sys.executable, "-u", str(file)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)
    first, second, third = done.stdout.splitlines()
    assert (first, third) == ("before", "2 3.0 2")
    assert second.startswith("vaekit: compiling its loops")
