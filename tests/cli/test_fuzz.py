"""Any configuration results in a run or in one clear error."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vaekit.cli.main import main

ROOT = Path(__file__).parents[2]
BASES = [
    yaml.safe_load((ROOT / f"configs/digits_{name}.yaml").read_text()) for name in ("gaussian", "discrete", "mixed")
]

VALUES: list[Any] = [
    None,
    True,
    False,
    -1,
    0,
    1,
    2,
    3,
    0.5,
    -0.5,
    1.5,
    1e-3,
    1e30,
    float("nan"),
    float("inf"),
    2**40,
    "",
    " ",
    "auto",
    "none",
    "many",
    "1",
    "-1",
    "细胞",
    "a.b",
    "..",
    "/",
    [],
    [0],
    [-3],
    [1, 2, 3],
    ["a"],
    [None],
    [[1]],
    {},
    {"a": 1},
    {"class_path": "MLP"},
    {"class_path": "Gaussian"},
    {"class_path": "Categorical"},
    {"class_path": "ELBO"},
    {"class_path": "Pathwise"},
    {"class_path": "Enumerate"},
    {"class_path": "NegativeBinomial"},
    {"class_path": "vaekit.nowhere.Thing"},
    {"class_path": ""},
    {"class_path": None},
    {"class_path": 3},
    {"class_path": "VAE"},
    {"class_path": "GaussianVAE", "init_args": 3},
    {"init_args": {}},
    {"init_args": None},
    "Bernoulli",
    "Gaussian",
    "REBAR",
    "vaekit.VAE",
    "vaekit",
    "vaekit.models",
    "torch.nn.Linear",
    "x" * 300,
]


def places(config: Any, before: tuple = ()) -> Iterator[tuple]:
    """Yield the way to every value of a configuration."""
    items = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    for key, value in items:
        yield (*before, key)
        yield from places(value, (*before, key))


@st.composite
def configurations(draw: st.DrawFn) -> Any:
    """Draw a shipped configuration with one to three changes."""
    config = copy.deepcopy(draw(st.sampled_from(BASES)))
    for _ in range(draw(st.integers(1, 3))):
        ways = list(places(config))
        if not ways:
            break
        *parents, key = draw(st.sampled_from(ways))
        place = config
        for parent in parents:
            place = place[parent]
        match draw(st.sampled_from(["change", "change", "change", "remove", "rename", "add"])):
            case "change":
                place[key] = copy.deepcopy(draw(st.sampled_from(VALUES)))
            case "remove":
                del place[key]
            case "rename" if isinstance(place, dict):
                place[draw(st.sampled_from([f"{key}s", str(key)[1:], "x", "", 7]))] = place.pop(key)
            case _ if isinstance(place, dict):
                name = draw(st.sampled_from(["lr", "latents", "hidden", "estimator", "prior", "é"]))
                place[name] = copy.deepcopy(draw(st.sampled_from(VALUES)))
    return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    return tmp_path_factory.mktemp("fuzz")


@settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
@given(config=configurations())
def test_any_configuration_runs_or_says_why_not(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, config: Any
) -> None:
    monkeypatch.chdir(folder)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config, allow_unicode=True))
    arguments = ["fit", "--config", str(path), "--trainer.default_root_dir", str(folder / "run")]
    arguments += ["--trainer.logger", "false", "--trainer.fast_dev_run", "1", "--trainer.enable_progress_bar", "false"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        status = main(arguments)
    message = capsys.readouterr().err
    assert status in (0, 2)
    assert "Traceback" not in message
    if status == 2:
        assert "vaekit fit: error: " in message
        assert len(message) < 2500, message


FLAGS = [
    "--trainer.max_epochs",
    "--model.latent_dim",
    "--model.hidden",
    "--model.estimator",
    "--data.split",
    "--config",
    "--model",
    "--data",
    "--trainer.callbacks",
    "--ckpt_path",
    "--seed_everything",
    "--nonsense",
    "--model.objective",
    "--trainer.accelerator",
    "--trainer",
    "--data.name",
    "positional",
    "--model.likelihood.x",
    "-x",
]


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    flags=st.lists(
        st.tuples(st.sampled_from(FLAGS), st.sampled_from([v for v in VALUES if not isinstance(v, dict)])),
        min_size=1,
        max_size=2,
    ),
    command=st.sampled_from(["fit", "validate", "test", "predict", "compare", "gradients"]),
)
def test_any_flags_run_or_say_why_not(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, flags: list, command: str
) -> None:
    monkeypatch.chdir(folder)
    words = [str(word) for flag in flags for word in flag if word is not None]
    arguments = [command, "--config", str(ROOT / "configs/digits_gaussian.yaml"), "--trainer.logger", "false"]
    arguments += ["--trainer.default_root_dir", str(folder / "run"), "--trainer.fast_dev_run", "1", *words]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            status = main(arguments)
        except SystemExit as stop:  # argparse's own, of the commands that it parses
            status = stop.code
    message = capsys.readouterr().err
    assert status in (0, 2)
    assert "Traceback" not in message
    assert len(message) < 2500, message
