"""The wheel and the source distribution: contents, and their use in a new environment and an empty directory."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from email import message_from_string
from pathlib import Path
from typing import Any

import anndata
import pytest
import yaml

import vaekit

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
DISTRIBUTIONS = {"yaml": "pyyaml", "PIL": "pillow", "sklearn": "scikit-learn"}  # others have the name of their module
FROM_TORCH = {"triton"}  # on Linux
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def run(*command: str | Path, directory: Path) -> str:
    done = subprocess.run(list(map(str, command)), cwd=directory, env=ENVIRONMENT, text=True, capture_output=True,
                          check=False)  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sdist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", directory, directory=ROOT)
    (path,) = directory.iterdir()
    return path


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the source distribution, without the repository."""
    directory = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(directory / "source", filter="data")
    (source,) = (directory / "source").iterdir()
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", directory, directory=source)
    (path,) = directory.glob("*.whl")
    return path


def test_the_source_distribution_is_complete(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "CITATION.cff", "SECURITY.md", "CHANGELOG.md", "README.md", "Makefile"} <= names
    assert {str(path.relative_to(ROOT)) for path in [*CONFIGS, *ROOT.glob("vaekit/**/*.py")]} <= names
    assert "tests/conftest.py" in names
    assert not any("__pycache__" in name or name.startswith(("runs", ".git/", "data/")) for name in names)


def test_the_wheel_is_the_package_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = [name for name in names if name.endswith("METADATA")]
        fields = message_from_string(archive.read(metadata).decode())
        assert all(archive.read(f"vaekit/configs/{path.name}") == path.read_bytes() for path in CONFIGS)
    information = metadata.partition("/")[0]
    assert {name.partition("/")[0] for name in names} == {"vaekit", information}
    modules = {str(path.relative_to(ROOT)) for path in ROOT.glob("vaekit/**/*.py")}
    assert modules | {f"{information}/licenses/LICENSE"} <= names
    others = {"vaekit/py.typed", *(f"vaekit/analysis/report/page.{kind}" for kind in ("css", "html.jinja"))}
    configs = {f"vaekit/configs/{path.name}" for path in CONFIGS}
    assert {name for name in names if name.startswith("vaekit/")} - modules == others | configs
    assert not re.findall(r"\]\((?!https?:)", str(fields.get_payload()))  # a package index resolves no relative links
    assert fields["Version"] == vaekit.__version__ == "0.2.0.dev0"
    assert fields["License-Expression"] == "BSD-3-Clause"
    pythons = [line.rpartition(" ")[2] for line in fields.get_all("Classifier") if re.search(r":: 3\.\d+$", line)]
    assert pythons == ["3.11", "3.12", "3.13"]


@pytest.mark.proof  # minutes on busy cores: three commands, each of which starts torch
def test_the_main_job_without_a_clone(wheel: Path, tmp_path: Path) -> None:
    """The wheel alone, in a new environment whose other packages are those of this one: fit, evaluate, embed."""
    environment, empty = tmp_path / "environment", tmp_path / "empty"
    empty.mkdir()
    venv.create(environment, symlinks=True)
    python = environment / "bin/python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel,
        directory=empty)  # fmt: skip
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))  # an editable vaekit there is not found

    def command(*arguments: str) -> str:
        return run(environment / "bin/vaekit", *arguments, directory=empty)

    assert run(python, "-c", "import vaekit; print(vaekit.__file__)", directory=empty).startswith(str(site))
    assert command("--version").strip() == vaekit.__version__
    assert [line.split()[0] for line in command("configs").splitlines()] == [path.stem for path in CONFIGS]
    assert command("configs", "pbmc_gaussian") == (ROOT / "configs/pbmc_gaussian.yaml").read_text()
    command("fit", "--config", "pbmc_gaussian", "--trainer.max_epochs", "1", "--trainer.logger", "false",
            "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false")  # fmt: skip
    checkpoint = "runs/pbmc_gaussian/last.ckpt"
    results = json.loads(command("evaluate", checkpoint, "--num_samples", "5", "--json").splitlines()[-1])
    assert results["elbo"] < 0
    command("embed", checkpoint, "-o", "embedded.h5ad")
    assert anndata.read_h5ad(empty / "embedded.h5ad").obsm["X_vaekit"].shape[0] == 700


def imported() -> set[str]:
    """Return the third-party modules that the package imports."""
    names: set[str] = set()
    for path in ROOT.glob("vaekit/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(str(node.module).partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"vaekit"}


def normalized(requirements: list[str]) -> set[str]:
    return {re.split(r"[^\w-]", requirement)[0].lower().replace("_", "-") for requirement in requirements}


def test_dependencies_are_those_that_the_package_imports() -> None:
    used = {DISTRIBUTIONS.get(name, name.replace("_", "-")) for name in imported() - FROM_TORCH}
    declared = normalized(PROJECT["dependencies"])
    extras = normalized([item for items in PROJECT["optional-dependencies"].values() for item in items])
    assert declared <= used, f"not imported: {declared - used}"
    assert used <= declared | extras, f"not declared: {used - declared - extras}"


def workflow(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / ".github/workflows" / name).read_text())["jobs"]


def commands_of(job: dict[str, Any]) -> list[str]:
    return [step["run"] for step in job["steps"] if "run" in step]


def recipe(target: str) -> list[str]:
    """Return the commands of a target of the Makefile, without the directory of the programs."""
    (lines,) = re.findall(rf"^{target}:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return [re.sub(r"^\S*/bin/", "", line.strip()) for line in lines.splitlines()]


def test_the_workflows_run_the_targets_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    jobs = workflow("ci.yml")
    steps = [command for job in jobs.values() for command in commands_of(job)]
    called = {word for step in steps for word in re.findall(r"^make (\w+)", step, re.MULTILINE)}
    assert called == {"check", "test", "exhaustive", "proofs", "wheel", "docs", "lowest", "smoke"} <= targets
    versions = {re.sub(r".*:: ", "", line) for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)}
    assert set(jobs["tests"]["strategy"]["matrix"]["python"]) == versions
    assert commands_of(jobs["windows"])[1:] == recipe("smoke")  # where make is not installed


def test_a_release_needs_no_secret() -> None:
    jobs = workflow("release.yml")
    assert commands_of(jobs["build"])[0].startswith("make wheel")
    assert any("twine check --strict" in command for command in recipe("wheel"))
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert "secrets." not in (ROOT / ".github/workflows/release.yml").read_text()


@pytest.mark.parametrize("name", ["ci.yml", "release.yml"])
def test_actions_are_pinned(name: str) -> None:
    """A tag such as v4 may move to other code."""
    used = [step["uses"] for job in workflow(name).values() for step in job["steps"] if "uses" in step]
    assert used
    assert all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action) for action in used)


def test_the_lowest_versions_are_those_of_the_project() -> None:
    lines = (ROOT / "tests/lowest_versions.txt").read_text().splitlines()
    lock = dict(line.split("==") for line in lines if not line.startswith("#"))
    for requirement in PROJECT["dependencies"]:
        name, minimum = re.fullmatch(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", requirement).groups()
        version = lock[name.lower().replace("_", "-")]
        assert f"{version}.".startswith(f"{minimum}."), f"{requirement}: make lowest tests {version}"


def test_the_changelog_has_the_usual_form() -> None:
    headings = re.findall(r"^(##?#?) (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == ("#", "Changelog")
    versions = [text for level, text in headings if level == "##"]
    assert versions[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", text) for text in versions[1:])
    kinds = {text for level, text in headings if level == "###"}
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_citation_is_of_this_project() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()  # those that the format requires
    assert citation["license"] == PROJECT["license"] == "BSD-3-Clause"
    assert "vaekit developers" in (ROOT / "LICENSE").read_text()
