"""Runs and sweeps of Weights & Biases against a local stand-in for its server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

from vaekit.cli.main import main
from vaekit.data import simulate_counts

from .wandb_server import ENTITY, KEY, Run, WandbServer

pytest.importorskip("wandb", minversion="0.31", reason="the server answers the requests of this version and later ones")
CONFIGS = Path(__file__).parents[2] / "configs"
QUICK = """
import sys
from vaekit.cli import training_messages
from vaekit.plotting import embedding_figures
embedding_figures.umap_coordinates = lambda points, seed=0: points[:, :2]
training_messages.report_run = lambda *args: ""
from vaekit.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
LABELS, BATCHES = ["naive T", "memory B"], ["first", "second"]


class Place(NamedTuple):
    """A working directory with cells, and a server."""

    directory: Path
    server: WandbServer

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command as in a shell with an account at the server."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
        environment |= {"WANDB_BASE_URL": self.server.url, "WANDB_API_KEY": KEY, **variables}
        return subprocess.run(command, cwd=self.directory, env=environment, check=False, capture_output=True, text=True)

    def fit(self, run: str, *flags: str, **variables: str) -> None:
        """Train on the cells, in another process: that of W&B keeps its first working directory."""
        result = self.run(sys.executable, "-c", QUICK, *self.arguments(run), *flags, **variables)
        assert result.returncode == 0, result.stderr

    def arguments(self, run: str) -> list[str]:
        """Return the arguments of a run on the cells."""
        return [
            "fit", "--config", str(CONFIGS / "pbmc_mixed.yaml"), f"--data.path={self.directory}/study/cells.h5ad",
            "--data.label_key=cell_type", "--data.batch_key=batch", "--model.hidden=[8]", "--trainer.max_steps=12",
            f"--trainer.default_root_dir={run}", "--trainer.enable_progress_bar=false",
        ]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("ada_lovelace")
    cells = simulate_counts(90, 40, seed=0)
    cells.obs_names = [f"BARCODE{i}-1" for i in range(90)]
    cells.obs = pd.DataFrame(
        {
            "cell_type": np.array(LABELS)[np.arange(90) % 2],
            "batch": np.array(BATCHES)[np.arange(90) // 45],
            "patient_name": [f"Jane Doe {i}" for i in range(90)],
        },
        index=cells.obs_names,
    )
    (directory / "study").mkdir()
    cells.write_h5ad(directory / "study/cells.h5ad")
    with WandbServer() as server:
        yield Place(directory, server)


@pytest.fixture(scope="module")
def online(place: Place) -> Run:
    place.fit("runs/online")
    (run,) = place.server.runs.values()
    return run


def kinds(run: Run) -> list[tuple[str, list[str]]]:
    return sorted((artifact.kind, sorted(artifact.aliases)) for artifact in run.artifacts)


def test_metrics(online: Run, place: Place) -> None:
    assert online.exit_code == 0
    assert [row["_step"] for row in online.history] == list(range(len(online.history)))
    assert all("trainer/global_step" in row for row in online.history)
    elbos = [row["val/elbo"] for row in online.history if "val/elbo" in row]
    losses = [row["train/loss"] for row in online.history if "train/loss" in row]
    assert len(elbos) > 3
    assert online.summary["val/elbo"] == {"max": max(elbos), "last": elbos[-1]}
    assert online.summary["train/loss"] == {"min": min(losses), "last": losses[-1]}
    assert not place.server.unknown


def test_configuration(online: Run) -> None:
    assert online.fields["project"] == "vaekit"
    assert online.fields["displayName"] == "online"
    assert online.config["config"]["model"]["class_path"] == "vaekit.MixedVAE"
    assert online.config["config"]["data"]["init_args"]["path"] == "cells.h5ad"
    assert online.config["config"]["seed_everything"] == 0
    data = online.config["data"]
    assert (data["observations"], data["features"], len(data["fingerprint"])) == (90, 40, 16)


def test_tables_and_figures(online: Run) -> None:
    tables = {name.split("/")[2]: json.loads(content) for name, content in online.files.items() if ".table." in name}
    codes = pd.DataFrame(tables["codes"]["data"], columns=tables["codes"]["columns"])
    assert codes["n"].sum() == 90
    assert {"usage", "entropy", "label", *(f"fraction {label}" for label in LABELS)} <= set(codes)
    assert {"code", "gene", "log2_fold_change"} <= set(tables["markers"]["columns"])
    assert any(name.startswith("media/images/figures/umap") for name in online.files)


def test_checkpoints(online: Run, place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = [artifact for artifact in online.artifacts if artifact.kind == "model"]
    assert {alias for artifact in models for alias in artifact.aliases} == {"best", "last", "latest"}
    assert len({artifact.name for artifact in models}) == 1
    path = tmp_path / "model.ckpt"
    path.write_bytes(models[-1].files["model.ckpt"])
    original = torch.load(place.directory / "runs/online/last.ckpt", weights_only=True)
    uploaded = torch.load(path, weights_only=True)
    assert all(torch.equal(value, uploaded["state_dict"][name]) for name, value in original["state_dict"].items())
    assert uploaded["data_registry"]["config"]["init_args"]["path"] == "cells.h5ad"
    cells, output = str(place.directory / "study/cells.h5ad"), tmp_path / "out.h5ad"
    assert main(["embed", str(path), cells, "-o", str(output)]) == 0
    assert len(anndata.read_h5ad(output)) == 90


def test_what_leaves_the_machine(online: Run, place: Place) -> None:
    """Only names of files, labels and batches; W&B itself names its directory for staging tables."""
    text = "\n".join(place.server.requests)
    assert LABELS[0] in text
    for private in ("BARCODE", "patient_name", "Jane Doe", str(place.directory), "lovelace", "study"):
        assert private not in text
    own = [line for line in place.server.requests if str(Path.home()) in line and '"local_path"' not in line]
    assert not own


def test_offline_runs_are_uploaded_later(online: Run, place: Place) -> None:
    place.fit("runs/offline", WANDB_MODE="offline")
    (directory,) = (place.directory / "runs/offline/wandb").glob("offline-run-*")
    before = set(place.server.runs)
    result = place.run(sys.executable, "-m", "wandb", "sync", str(directory.relative_to(place.directory)))
    assert result.returncode == 0, result.stderr
    (name,) = set(place.server.runs) - before
    synced = place.server.runs[name]
    assert synced.exit_code == 0
    assert [set(row) for row in synced.history] == [set(row) for row in online.history]
    assert synced.summary["val/elbo"] == online.summary["val/elbo"]
    assert synced.config["data"] == online.config["data"]
    assert kinds(synced) == kinds(online)
    assert str(place.directory) not in "\n".join(place.server.requests)


@pytest.mark.exhaustive
def test_resumed_runs_continue(online: Run, place: Place) -> None:
    num_runs, num_rows = len(place.server.runs), len(online.history)
    place.fit("runs/online", "--trainer.max_steps=16", "--ckpt_path=last")
    assert len(place.server.runs) == num_runs
    assert len(online.history) > num_rows
    steps = [row["_step"] for row in online.history]
    assert steps == sorted(set(steps))
    assert online.config["config"]["trainer"]["max_steps"] == 16
    assert sum(artifact.kind == "model" for artifact in online.artifacts) > 1


ATTACH = """
import sys
from pathlib import Path
from vaekit.cli.wandb_files import attach_file
print(attach_file(Path(sys.argv[1]), Path(sys.argv[2]), "report"))
"""


def test_files_are_attached_to_runs_that_have_ended(online: Run, place: Place) -> None:
    report = place.directory / "report.html"
    report.write_text(f"<p>cells of {Path.home()}/cells.h5ad</p>")
    config, num_rows = dict(online.config["config"]), len(online.history)
    result = place.run(sys.executable, "-c", ATTACH, "runs/online", "report.html")
    assert result.stdout.startswith("Logged to Weights & Biases: http"), result.stderr
    (artifact,) = [artifact for artifact in online.artifacts if artifact.kind == "report"]
    assert artifact.name == f"report-{online.fields['name']}"
    assert artifact.files["report.html"] == b"<p>cells of ~/cells.h5ad</p>"
    assert (online.config["config"], len(online.history), online.exit_code) == (config, num_rows, 0)
    assert online.fields["displayName"] == "online"


@pytest.mark.exhaustive
def test_a_sweep(place: Place) -> None:
    """An agent runs each member in a separate directory; one that cannot start is a failed run."""
    text = (CONFIGS / "sweep_estimators.yaml").read_text()
    text = text.replace("- vaekit\n", f"- {sys.executable}\n  - -c\n  - {json.dumps(QUICK)}\n")
    text = text.replace("- ${args}", "- --data.batch_size=1000\n  - --trainer.default_root_dir=runs/sweep\n  - ${args}")
    (place.directory / "sweep.yaml").write_text(text)
    created = place.run(sys.executable, "-m", "wandb", "sweep", "sweep.yaml")
    assert "wandb agent" in created.stderr, created.stderr
    (name,) = place.server.sweeps
    for run, estimator in (("first", "ReinMax"), ("second", "Pathwise")):
        arguments: dict[str, Any] = {"model.estimator": estimator, "trainer.max_epochs": 1}
        values = {key: {"value": value} for key, value in arguments.items()}
        place.server.agent_commands.append({"type": "run", "run_id": run, "program": None, "args": values})
    result = place.run(sys.executable, "-m", "wandb", "agent", f"{ENTITY}/vaekit/{name}")
    first, second = place.server.runs["first"], place.server.runs["second"]
    assert first.exit_code == 0, result.stderr
    assert first.fields["sweep"] == second.fields["sweep"] == name
    assert first.fields["displayName"] == "digits_discrete ReinMax seed 0"
    assert isinstance(first.summary["val/elbo"], float)  # the optimizer needs a number
    assert not [artifact for artifact in first.artifacts if artifact.kind == "model"]
    assert second.exit_code == 2
    assert "Pathwise does not support" in second.fields["notes"]
    assert (place.directory / f"runs/sweep/sweep-{name}/first/last.ckpt").is_file()
    assert not place.server.unknown
