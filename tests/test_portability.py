"""The package on macOS and Windows, as far as Linux can show it: modules, encodings and files of other systems.

The workflow ``ci.yml`` runs the main job on the systems themselves.
"""

from __future__ import annotations

import ast
import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vaekit._core.atomic import atomic_write

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "vaekit").rglob("*.py"))
ONLY_POSIX = {"fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"}
ONLY_POSIX_FUNCTIONS = {
    *("fork", "forkpty", "geteuid", "getegid", "getuid", "getgid", "getpgid", "killpg", "mkfifo", "mknod", "setsid"),
    *("sched_getaffinity", "statvfs", "uname", "chown", "lchown", "pwrite", "pread", "sysconf", "SIGKILL", "SIGUSR1"),
}
OTHER_OPENERS = {"os", "Image", "h5o", "h5a", "h5py", "tarfile", "zipfile", "gzip", "archive"}
MAIN_JOB = """
import multiprocessing, os, sys

import psutil  # reads /proc on Linux alone

for name in ("fcntl", "grp", "pwd", "resource", "termios", "triton"):
    sys.modules[name] = None  # an import raises an ImportError
for name in ("fork", "forkpty", "geteuid", "sched_getaffinity", "mkfifo"):
    delattr(os, name)
multiprocessing.set_start_method("spawn")
from vaekit.cli.main import main
from vaekit.data import simulate_counts
from vaekit.plotting import embedding_figures

embedding_figures.umap_coordinates = lambda points, seed=0: points[:, :2]  # takes longer than all the rest
if __name__ == "__main__":
    cells = simulate_counts(80, 40)
    cells.obs["label"] = ["Zürich"] * 40 + ["東京"] * 40
    cells.write_h5ad("zellen-ü.h5ad")
    run = ["--config", "pbmc_gaussian", "--trainer.max_epochs", "1", "--trainer.logger", "false"]
    run += ["--data.path", "zellen-ü.h5ad", "--data.label_key", "label"]
    checkpoint = "runs/pbmc_gaussian/last.ckpt"
    assert main(["fit", *run]) == 0
    assert main(["evaluate", checkpoint, "--num_samples", "2"]) == 0
    assert main(["embed", checkpoint, "zellen-ü.h5ad", "-o", "embedded.h5ad"]) == 0
    assert main(["--help"]) == 0
"""


def test_the_main_job_without_modules_of_posix(tmp_path: Path) -> None:
    """No fcntl, fork or /proc; a console and a default encoding of Western Windows."""
    script = tmp_path / "main_job.py"
    script.write_text(MAIN_JOB, encoding="utf-8")
    environment = os.environ | {
        "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "cp1252:replace", "PYTHONUTF8": "0", "WANDB_MODE": "disabled",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, script.name], cwd=tmp_path, env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout.decode("cp1252") + done.stderr.decode("cp1252")
    assert (tmp_path / "embedded.h5ad").is_file()


def calls(file: Path) -> Iterator[tuple[int, str, ast.Call]]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            yield node.lineno, name, node


def opens_text(name: str, call: ast.Call) -> bool:
    """Return whether a call opens a text file, in the encoding of the system unless it names one."""
    if name in ("read_text", "write_text"):
        return True
    if name != "open" or getattr(getattr(call.func, "value", None), "id", "") in OTHER_OPENERS:
        return False
    if isinstance(call.func, ast.Attribute) and any(not isinstance(each, ast.Constant) for each in call.args):
        return False  # of a data source, not of a path
    mode = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
    return not any(isinstance(each, ast.Constant) and "b" in str(each.value) for each in mode)


def test_text_files_have_an_encoding() -> None:
    """Windows would write the letters of a German or Chinese label in an encoding that others cannot read."""
    found = [
        f"{file.relative_to(ROOT)}:{line}"
        for file in FILES
        for line, name, call in calls(file)
        if opens_text(name, call) and not any(keyword.arg == "encoding" for keyword in call.keywords)
    ]
    assert not found, f'add encoding="utf-8": {found}'


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_module_of_posix_is_imported(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            assert not ONLY_POSIX & {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module not in ONLY_POSIX
        elif isinstance(node, ast.Attribute) and getattr(node.value, "id", "") in ("os", "signal"):
            assert node.attr not in ONLY_POSIX_FUNCTIONS, f"line {node.lineno}: {node.attr}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert not node.value.startswith(("/proc", "/sys/", "/tmp")), f"line {node.lineno}"


def test_a_file_is_flushed_through_a_descriptor_that_may_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Windows requires: there, flushing a file that is open for reading fails."""
    flushed = []

    def fsync(descriptor: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        flushed.append(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with atomic_write(tmp_path / "a.bin") as temporary:
        temporary.write_bytes(b"complete")
    assert (tmp_path / "a.bin").read_bytes() == b"complete"
    assert flushed
