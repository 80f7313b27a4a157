"""Values that have no effect, or cannot work: exit status 2 and one line that names the key, in one process."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException

import vaekit
from vaekit.callbacks.training_errors import translate_errors
from vaekit.cli import model_commands, table_commands
from vaekit.cli.command_parser import command_parser
from vaekit.cli.logger_start import start_loggers
from vaekit.cli.main import main
from vaekit.exceptions import CheckpointError, ConfigError, OutputError, TrainingError
from vaekit.likelihoods import Bernoulli

CONFIG = Path(__file__).parents[2] / "configs/digits_gaussian.yaml"

WRONG = """
--model.features 3                              | model.features
--model.init_args.covariates=0                  | model.covariates
--model.latent_dim null                         | latent_dim
--model.latent_dim 1e30                         | latent_dim
--model.latent_dim nan                          | latent_dim
--model.latent_dim [3]                          | latent_dim
--model.latent_dim 1000000000000                | latent_dim
--model.latent_dim 99999999999999999999         | latent_dim
--model.hidden null                             | hidden
--model.hidden [null]                           | hidden
--model.hidden [1000000000000]                  | hidden
--model.hidden [4000000000000000000]            | hidden
--model.dropout .nan                            | dropout
--model.learning_rate null                      | learning_rate
--model.learning_rate .inf                      | learning_rate
--model.weight_decay .nan                       | weight_decay
--model.objective.beta .inf                     | beta
--model.objective.free_bits null                | free_bits
--data.batch_size null                          | batch_size
--data.batch_size -1                            | batch_size
--data.batch_size 99999999999999999999          | batch_size
--data.seed null                                | seed
--data.seed -1                                  | seed
--data.seed 4294967296                          | seed
--data.split [.nan,0.5,0.5]                     | split
--trainer.accumulate_grad_batches -1            | trainer.accumulate_grad_batches
--trainer.accumulate_grad_batches 0             | trainer.accumulate_grad_batches
--trainer.accumulate_grad_batches null          | trainer.accumulate_grad_batches
--trainer.check_val_every_n_epoch 0             | trainer.check_val_every_n_epoch
--trainer.check_val_every_n_epoch -1            | trainer.check_val_every_n_epoch
--trainer.val_check_interval 0                  | trainer.val_check_interval
--trainer.min_epochs -3                         | trainer.min_epochs
--trainer.min_epochs 5 --trainer.max_epochs 2   | trainer.min_epochs=5
--trainer.max_epochs 0                          | trainer.max_epochs
--trainer.limit_train_batches 0                 | trainer.limit_train_batches
--trainer.default_root_dir s3://bucket/run      | trainer.default_root_dir
--trainer.profiler advance                      | 'advanced'
--trainer.strategy xla                          | torch_xla
--trainer.logger CvsLogger                      | 'CSVLogger'
--data ImageDat                                 | 'ImageData'
--trainer.precision foo                         | '64-true'
--seed_everything abc                           | seed_everything='abc' must be
--model.learning_rate -1e-3                     | --KEY=VALUE
--model.latent_dim=                             | latent_dim='' must be an integer
--trainer.min_steps -3                          | trainer.min_steps
--trainer.max_epochs -2                         | trainer.max_epochs
--trainer.num_sanity_val_steps -5               | trainer.num_sanity_val_steps
--trainer.log_every_n_steps -1                  | trainer.log_every_n_steps
--trainer.gradient_clip_val -1                  | trainer.gradient_clip_val
--trainer.gradient_clip_val .inf                | trainer.gradient_clip_val
--trainer.gradient_clip_algorithm value         | trainer.gradient_clip_algorithm
--trainer.limit_val_batches -1                  | trainer.limit_val_batches
--trainer.num_nodes -1                          | trainer.num_nodes
--trainer.devices -3                            | devices
--trainer.devices null                          | devices
--trainer.precision 7                           | trainer.precision
--trainer.enable_checkpointing false            | trainer.enable_checkpointing
--trainer.barebones true                        | trainer.barebones
--seed_everything null                          | seed_everything
--seed_everything -1                            | seed_everything
--weights_only false                            | weights_only
--ckpt_path 5                                   | ckpt_path
--ckpt_path true                                | ckpt_path
"""
CASES = [[part.strip() for part in line.split("|")] for line in WRONG.strip().splitlines()]


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop where the training would begin."""

    @functools.wraps(pl.Trainer.fit)
    def stop(*args: Any, **kwargs: Any) -> None:
        raise SystemExit("accepted")

    monkeypatch.setattr(pl.Trainer, "fit", stop)


@pytest.mark.usefixtures("stopped")
@pytest.mark.parametrize(("flag", "key"), CASES, ids=[flag for flag, _ in CASES])
def test_one_line_that_names_the_key(tmp_path: Path, capsys, flag: str, key: str) -> None:
    arguments = ["fit", "--config", str(CONFIG), "--trainer.logger", "false", "--trainer.default_root_dir"]
    assert main([*arguments, str(tmp_path / "run"), *flag.split()]) == 2
    (message,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("Seed")]
    assert message.startswith("vaekit fit: error: ")
    assert key in message
    assert not (tmp_path / "run").exists()


def test_a_model_larger_than_memory_in_a_file(tmp_path: Path) -> None:
    small = vaekit.GaussianVAE(4, Bernoulli(), hidden=[3])
    vaekit.save(small, tmp_path / "small.ckpt")
    checkpoint = torch.load(tmp_path / "small.ckpt", weights_only=True)
    for value, words in (([10**12], "hidden.0.=1000000000000"), ([None], "hidden.0.=None"), (7.5, "hidden")):
        checkpoint["hyper_parameters"]["hidden"] = value
        torch.save(checkpoint, tmp_path / "large.ckpt")
        with pytest.raises(CheckpointError, match=words):
            vaekit.load(tmp_path / "large.ckpt")


def test_numbers_in_python() -> None:
    for wrong in ({"latent_dim": None}, {"latent_dim": 2.5}, {"dropout": float("nan")}, {"learning_rate": "fast"}):
        with pytest.raises(ConfigError, match=rf"GaussianVAE: {next(iter(wrong))}="):
            vaekit.GaussianVAE(4, Bernoulli(), **wrong)  # type: ignore[arg-type]


class Stub:
    """A trainer of two processes."""

    world_size, global_rank = 2, 1

    def __init__(self, *loggers: Any) -> None:
        self.loggers = list(loggers)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1"), TrainingError,
         "another of the 2 processes has ended"),
        (RuntimeError("Early stopping conditioned on metric `x` which is not available."), ConfigError,
         "trainer.callbacks"),
        (MisconfigurationException("Cannot use `LearningRateMonitor` callback with `Trainer` that has no logger."),
         ConfigError, "LearningRateMonitor"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] can't allocate memory"), ConfigError, "batch_size"),
        (MemoryError(), ConfigError, "batch_size"),
        (ValueError(" `val_check_interval` (9) must be less"), ConfigError, "trainer.val_check_interval"),
        (ValueError("dict contains fields not in fieldnames: None"), OutputError, "metrics.csv"),
    ],
)  # fmt: skip
def test_errors_in_the_middle_of_a_training(tmp_path: Path, error, kind, words: str) -> None:
    trainer: Any = Stub(pl.loggers.CSVLogger(tmp_path))
    with pytest.raises(kind, match=words), translate_errors(trainer):
        raise error
    with pytest.raises(ZeroDivisionError), translate_errors(trainer):
        raise ZeroDivisionError


def test_a_csv_logger_deletes_no_metrics(tmp_path: Path) -> None:
    logger = pl.loggers.CSVLogger(tmp_path, version=0)
    path = Path(logger.log_dir) / "metrics.csv"
    path.parent.mkdir(parents=True)
    path.write_text("a\n1\n")
    trainer: Any = Stub(logger)
    with pytest.raises(OutputError, match=r"metrics\.csv exists"):
        start_loggers(trainer)
    assert path.read_text() == "a\n1\n"


def test_a_csv_logger_that_would_divide_by_zero(tmp_path: Path) -> None:
    trainer: Any = Stub(pl.loggers.CSVLogger(tmp_path, flush_logs_every_n_steps=0))
    with pytest.raises(ConfigError, match="flush_logs_every_n_steps=0"):
        start_loggers(trainer)


def test_names_of_the_package() -> None:
    for name in vaekit.__all__:
        assert getattr(vaekit, name) is not None
    assert vaekit.models.regularizers.InformationMaximization().information == 2.0


def test_a_regularizer_starts_from_its_defaults() -> None:
    from vaekit.cli.class_defaults import expand_class_defaults

    text = expand_class_defaults("model.regularizer", "InformationMaximization")
    assert json.loads(text)["init_args"] == vaekit.models.regularizers.InformationMaximization().config["init_args"]


def test_null_names_a_group_and_is_never_a_number() -> None:
    parser = command_parser(table_commands.de)
    required = ["a.ckpt", "--groupby", "cell_type", "--group1", "B", "-o", "x.csv"]
    for text in ("null", "~"):
        assert parser.parse_args([*required, "--group2", text]).group2 == text
    assert parser.parse_args(required).group2 is None
    with pytest.raises(ConfigError, match=r"--split='null' must be 'train' or"):
        command_parser(model_commands.evaluate).parse_args(["a.ckpt", "--split", "null"])
    with pytest.raises(ConfigError, match="--num_samples='null' must be an integer"):
        command_parser(model_commands.evaluate).parse_args(["a.ckpt", "--num_samples", "null"])
