"""Import time and installed size of vaekit.

python tests/benchmarks/installation.py [--repeats 5]

The time is the processor time of a new process, which other programs hardly change. It excludes the start of Python
itself, with all bytecode compiled: the median and the range of the repeats. The size is that of the files of the plain
install, with all packages that it requires, in the environment of the interpreter; CUDA libraries, which torch requires
on Linux, are counted separately.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement

STATEMENTS = {  # the first two are floors
    "import torch": "import torch",
    "import pytorch_lightning": "import pytorch_lightning",
    "import vaekit": "import vaekit",
    "import vaekit.estimators": "import vaekit.estimators",
    "vaekit.expectation": "import vaekit; vaekit.expectation",
    "vaekit.MixedVAE": "import vaekit; vaekit.MixedVAE",
    "vaekit.analysis": "import vaekit.analysis",
    "vaekit --help": "from vaekit.cli.main import main; main(['--help'])",
    "vaekit configs": "from vaekit.cli.main import main; main(['configs'])",
    "vaekit embed --help": "from vaekit.cli.main import main; main(['embed', '--help'])",
    "vaekit fit --help": "from vaekit.cli.main import main; main(['fit', '--help'])",
}
CUDA = re.compile(r"nvidia-|cuda-|triton")


def seconds(statement: str) -> float:
    """Return the processor time of a new process; raise if it fails."""
    command = f"import atexit, time; atexit.register(lambda: print(time.process_time())); {statement}"
    done = subprocess.run([sys.executable, "-c", command], stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def requirements(name: str, extras: frozenset[str] = frozenset()) -> Iterator[Requirement]:
    """Yield the packages that an installed package requires in this environment."""
    for line in metadata.requires(name) or ():
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras or {""}):
            yield requirement


def plain_install(name: str = "vaekit") -> set[str]:
    """Return the names of a package and of all packages that it requires."""
    found: set[tuple[str, frozenset[str]]] = set()
    stack = [(name, frozenset[str]())]
    while stack:
        item = stack.pop()
        if item in found:
            continue
        found.add(item)
        stack += [(re.sub(r"[-_.]+", "-", each.name).lower(), frozenset(each.extras)) for each in requirements(*item)]
    return {package for package, _ in found}


def size(name: str) -> int:
    """Return the bytes of the files of an installed package."""
    return sum(path.size or 0 for path in metadata.files(name) or ())


def main() -> None:
    """Print both tables, and JSON as the last line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    start = statistics.median(seconds("pass") for _ in range(repeats))
    times = {}
    for label, statement in STATEMENTS.items():
        seconds(statement)  # compiles the bytecode
        times[label] = [seconds(statement) - start for _ in range(repeats)]
        print(
            f"{label:<26}{statistics.median(times[label]):6.2f} s  ({min(times[label]):.2f} to {max(times[label]):.2f})"
        )
    sizes = {name: size(name) for name in plain_install()}
    cuda = sum(count for name, count in sizes.items() if CUDA.match(name))
    total = sum(sizes.values()) - cuda
    print(f"{len(sizes)} packages, {total / 1e6:.0f} MB, and {cuda / 1e6:.0f} MB of CUDA; the largest, in MB:")
    for name in sorted(sizes, key=lambda name: -sizes[name])[:12]:
        print(f"  {name:<24}{sizes[name] / 1e6:8.0f}")
    print(json.dumps({"python": platform.python_version(), "seconds": times, "bytes": sizes}))


if __name__ == "__main__":
    main()
