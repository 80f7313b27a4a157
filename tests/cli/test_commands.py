"""The command line end to end: real files, the real Trainer, real offline W&B runs; each wrong thing on purpose."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pytest
import torch
import yaml

from vaekit.cli.main import COMMANDS, main

from .offline_runs import wandb_keys

ROOT = Path(__file__).parents[2]
SHORT = ["--trainer.max_epochs", "2", "--trainer.enable_progress_bar", "false"]


def run(*arguments: str | Path) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the shipped mixed configuration, cut short, logged to CSV."""
    folder = tmp_path_factory.mktemp("run")
    config = ROOT / "configs/pbmc_mixed.yaml"
    logger = ("--trainer.logger", "CSVLogger")
    assert run("fit", "--config", config, "--trainer.default_root_dir", folder, *logger, *SHORT) == 0
    return folder


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An .h5ad file of the packaged cells, with counts in X, labels and a batch column."""
    from vaekit.data.cells.sources import pbmc68k

    source = pbmc68k()[:90].copy()
    made = anndata.AnnData(source.layers["counts"].copy(), obs=source.obs[["bulk_labels"]].copy(), var=source.var[[]])
    made.obs["donor"] = np.where(np.arange(90) % 2, "a", "b")
    path = tmp_path_factory.mktemp("cells") / "cells.h5ad"
    made.write_h5ad(path)
    return path


class TestHelp:
    def test_static_help_imports_nothing_slow(self) -> None:
        code = (
            "import sys; from vaekit.cli.main import main; status = main(['--help']); "
            "slow = {'torch', 'pytorch_lightning', 'scanpy', 'wandb', 'matplotlib', 'numpy'} & set(sys.modules); "
            "sys.exit(repr(slow) if slow else status)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert all(command in done.stdout for command in COMMANDS)

    @pytest.mark.parametrize("command", ["embed", "evaluate", "fit"])
    def test_every_command_has_help(self, command: str, capsys: pytest.CaptureFixture[str]) -> None:
        try:
            status: object = main([command, "--help"])
        except SystemExit as stop:  # of argparse
            status = stop.code
        assert status == 0
        assert "usage" in capsys.readouterr().out

    def test_unknown_command_names_the_nearest(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["evalute"]) == 2
        assert "Did you mean 'evaluate'?" in capsys.readouterr().err


class TestFit:
    def test_everything_of_a_run_lies_in_its_folder(self, trained: Path) -> None:
        found = {path.name for path in trained.iterdir()}
        assert {"last.ckpt", "best.ckpt", "config.yaml", "figures", "lightning_logs"} <= found
        pictures = {path.name for path in (trained / "figures").iterdir()}
        assert pictures == {f"{n}.png" for n in ("umap", "loss_curves", "schedules", "code_usage_y", "active_units")}
        assert "val/elbo" in next(trained.glob("lightning_logs/*/metrics.csv")).read_text()
        config = yaml.safe_load((trained / "config.yaml").read_text())
        assert config["model"]["class_path"] == "vaekit.MixedVAE"

    def test_checkpoint_loads_as_plain_data(self, trained: Path) -> None:
        checkpoint = torch.load(trained / "last.ckpt", weights_only=True)
        assert checkpoint["data_registry"]["split_indices"]["test"].shape == (70,)

    def test_test_validate_and_predict_need_the_checkpoint_alone(
        self, trained: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for command in ("validate", "test", "predict"):
            assert run(command, "--ckpt_path", trained / "last.ckpt") == 0
        out = capsys.readouterr().out
        assert "val/elbo" in out
        assert "test/elbo" in out
        assert torch.load(trained / "predictions.pt", weights_only=True)["z"].shape == (700, 10)

    def test_second_run_moves_the_first_aside(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        config = ROOT / "configs/digits_gaussian.yaml"
        for _ in range(2):
            arguments = (
                "--trainer.default_root_dir",
                tmp_path,
                "--trainer.logger",
                "false",
                "--trainer.max_steps",
                "2",
            )
            assert run("fit", "--config", config, *arguments) == 0
        assert "earlier run" in capsys.readouterr().err
        assert (tmp_path / "last.ckpt").is_file()
        assert (tmp_path / "earlier" / "1" / "last.ckpt").is_file()

    def test_resume_needs_last_alone(self, tmp_path: Path) -> None:
        config = ROOT / "configs/digits_gaussian.yaml"
        common = ("--config", config, "--trainer.default_root_dir", tmp_path, "--trainer.logger", "false")
        assert run("fit", *common, "--trainer.max_epochs", "1") == 0
        assert run("fit", *common, "--trainer.max_epochs", "2", "--ckpt_path", "last") == 0
        assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 46

    def test_default_logger_is_wandb_offline_without_an_account(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        config = ROOT / "configs/digits_mixed.yaml"
        assert run("fit", "--config", config, "--trainer.default_root_dir", tmp_path, "--trainer.max_epochs", "1") == 0
        assert "wandb sync" in capsys.readouterr().out
        (record,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
        keys = wandb_keys(record)
        assert {"val/elbo", "train/loss"} <= keys["history"]
        pictures = {"umap", "reconstructions", "loss_curves", "samples", "categories_y", "traversals_z"}
        assert pictures <= {key.split("/")[1] for key in keys["history"] if key.startswith("figures/")}
        assert {"config", "data"} <= keys["config"]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--model.hiden", "[3]"], "no argument 'hiden'. Did you mean 'hidden'?"),
            (["--model.likelihood", "NegativBinomial"], "Did you mean 'NegativeBinomial'?"),
            (["--model", "MixedVEA"], "Did you mean 'MixedVAE'?"),
            (["--data.pth", "x"], "no argument 'pth'. Did you mean 'path'?"),
            (["--data.batch_size", "many"], "data.batch_size='many' must be an integer"),
            (["--data.batch_size", "[1]"], "data.batch_size=[1] must be an integer"),
            (["--data.split", "[0.5, 0.5]"], "data.split=[0.5, 0.5] must have 3 items"),
            (["--model.learning_rate", "nan"], "model.learning_rate='nan' must be a number"),
            (["--data.split", "3"], "data.split=3 must be a list"),
            (["--data.batch_key", "[a]"], "data.batch_key=['a'] must be text"),
            (["--data.path", "nowhere.h5ad"], "nowhere.h5ad does not exist"),
            (["--model.latents.y.estimator", "Pathwise"], "latent 'y': Pathwise does not support"),
            (["--model.latents.y.estimator", "Enumerat"], "Did you mean 'Enumerate'?"),
            (["--model.estimator", "Enumerat"], "Did you mean 'Enumerate'?"),
            (["--model.estimator", "Pathwise"], "latent 'y': Pathwise does not support"),
            (["--model.objective.warmup", "1.5"], "never reach"),
            (["--trainer.max_steps", "-1", "--trainer.max_epochs", "-1"], "their number is inf"),
            (["--trainer.accelerator", "abacus"], "abacus"),
            (["--ckpt_path", "nowhere.ckpt"], "checkpoint nowhere.ckpt not found"),
            (["--config", "nowhere.yaml"], "nowhere.yaml"),
        ],
    )
    def test_wrong_configuration_is_one_clear_message(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
    ) -> None:
        common = ["fit", "--config", str(ROOT / "configs/pbmc_mixed.yaml"), "--trainer.default_root_dir", str(tmp_path)]
        assert main([*common, *arguments]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "last.ckpt").exists()

    @pytest.mark.parametrize(
        ("config", "arguments", "message"),
        [
            ("digits_discrete", ["--model.latents.y.estimator", "ReinMax"], "DiscreteVAE takes --model.estimator"),
            (
                "digits_discrete",
                ["--model.latents.y.estimator.temperature", "2"],
                "DiscreteVAE takes --model.estimator",
            ),
            ("digits_discrete", ["--model.latents.y.categories", "4"], "DiscreteVAE takes --model.categories"),
            (
                "pbmc_gaussian",
                ["--model.latents.l", "LibrarySize"],
                "GaussianVAE has no argument 'latents'. Latent 'l': only MixedVAE and VAE",
            ),
            ("digits_gaussian", ["--model.latents.z.estimator=Pathwise"], "GaussianVAE takes --model.estimator"),
            ("digits_gaussian", ["--model.hiden.width", "3"], "no argument 'hiden'. Did you mean 'hidden'?"),
        ],
    )
    def test_arguments_of_latents_are_where_the_model_has_them(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], config: str, arguments: list[str], message: str
    ) -> None:
        common = ["fit", "--config", str(ROOT / f"configs/{config}.yaml"), "--trainer.default_root_dir", str(tmp_path)]
        assert main([*common, *arguments]) == 2
        assert message in capsys.readouterr().err

    def test_unknown_keys_of_a_file(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        text = (ROOT / "configs/pbmc_mixed.yaml").read_text()
        for wrong, right, hint in (("max_stebs", "max_steps", "'max_steps'"), ("modle:", "model:", "'model'")):
            path = tmp_path / "wrong.yaml"
            path.write_text(text.replace(right, wrong, 1))
            assert run("fit", "--config", path) == 2
            assert f"Did you mean {hint}?" in capsys.readouterr().err

    def test_logged_in_is_read_from_the_environment_and_netrc(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        from vaekit.cli.logger import logged_in

        assert not logged_in()
        (tmp_path / "netrc").write_text("machine api.wandb.ai login user password " + "0" * 40)
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        assert logged_in()
        monkeypatch.delenv("NETRC")
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        assert logged_in()


class TestEvaluate:
    def test_json_is_the_last_line(self, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("evaluate", trained / "last.ckpt", "--num_samples", 20, "--json") == 0
        record = json.loads(capsys.readouterr().out.splitlines()[-1])
        names = {"elbo", "log_likelihood", "log_likelihood_se", "ess", "active_units", "ari", "nmi"}
        assert names <= set(record)
        assert record["observations"] == 70
        assert record["elbo"] < record["log_likelihood"] < 0
        assert 1 <= record["ess"] <= 20

    def test_file_with_labels(self, trained: Path, cells: Path, capsys: pytest.CaptureFixture[str]) -> None:
        arguments = ("--data.path", cells, "--data.label_key", "bulk_labels", "--num_samples", 5, "--json")
        assert run("evaluate", trained / "last.ckpt", *arguments) == 0
        record = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert record["observations"] == 90
        assert record["nmi"] is not None

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--data.label_key", "x"], "requires data.path"),
            (["--num_samples", "0"], "num_samples=0 must be at least 1"),
            (["--data.path", "nowhere.h5ad"], "nowhere.h5ad"),
        ],
    )
    def test_wrong_arguments(
        self, trained: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
    ) -> None:
        assert main(["evaluate", str(trained / "last.ckpt"), *arguments]) == 2
        assert message in capsys.readouterr().err

    def test_truncated_and_foreign_checkpoints(
        self, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "short.ckpt").write_bytes((trained / "last.ckpt").read_bytes()[:5000])
        torch.save({"weights": torch.zeros(3)}, tmp_path / "foreign.ckpt")
        for name in ("short.ckpt", "foreign.ckpt", "absent.ckpt"):
            assert run("evaluate", tmp_path / name) == 2
            assert name in capsys.readouterr().err


class TestEmbed:
    def test_writes_latents_codes_and_provenance(self, trained: Path, cells: Path, tmp_path: Path) -> None:
        before = cells.read_bytes()
        assert run("embed", trained / "last.ckpt", cells, "-o", tmp_path / "out.h5ad") == 0
        found = anndata.read_h5ad(tmp_path / "out.h5ad")
        assert found.obsm["X_vaekit"].shape == (90, 10)
        assert found.obsm["vaekit_y_probabilities"].sum(1) == pytest.approx(np.ones(90), abs=1e-5)
        assert set(found.obs["vaekit_y"]) <= {str(code) for code in range(16)}
        assert found.uns["vaekit"]["checkpoint"] == str(trained / "last.ckpt")
        assert cells.read_bytes() == before

    def test_training_data_without_a_file(self, trained: Path, tmp_path: Path) -> None:
        assert run("embed", trained / "last.ckpt", "-o", tmp_path / "out.h5ad") == 0
        assert anndata.read_h5ad(tmp_path / "out.h5ad").n_obs == 700

    def test_nothing_is_written_over(self, trained: Path, cells: Path, capsys: pytest.CaptureFixture[str]) -> None:
        before = cells.read_bytes()
        assert run("embed", trained / "last.ckpt", cells, "-o", cells) == 2
        assert run("embed", trained / "last.ckpt", cells, "-o", cells, "--overwrite") == 2
        assert "is the input" in capsys.readouterr().err
        assert cells.read_bytes() == before
        other = cells.parent / "other.h5ad"
        other.write_text("precious")
        assert run("embed", trained / "last.ckpt", cells, "-o", other) == 2
        assert other.read_text() == "precious"
        assert run("embed", trained / "last.ckpt", cells, "-o", cells.parent / "no" / "folder.h5ad") == 2

    def test_too_few_shared_genes(
        self, trained: Path, cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        renamed = anndata.read_h5ad(cells)
        renamed.var_names = [f"gene{i}" if i > 60 else name for i, name in enumerate(renamed.var_names)]
        renamed.write_h5ad(tmp_path / "renamed.h5ad")
        assert run("embed", trained / "last.ckpt", tmp_path / "renamed.h5ad", "-o", tmp_path / "out.h5ad") == 2
        message = capsys.readouterr().err
        assert "61" in message
        assert "765" in message
        assert not (tmp_path / "out.h5ad").exists()
