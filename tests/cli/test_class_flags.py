"""A flag that names a class resets the component to its defaults, in every command."""

from __future__ import annotations

import inspect
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from vaekit import GaussianVAE
from vaekit._core.component_names import class_names
from vaekit.cli.class_defaults import BASES, expand_class_defaults, with_defaults
from vaekit.cli.compare import estimator_config
from vaekit.cli.instantiate import instantiate
from vaekit.exceptions import ConfigError

CONFIGS = Path(__file__).parents[2] / "configs"
DISCRETE, MIXED = CONFIGS / "digits_discrete.yaml", CONFIGS / "pbmc_mixed.yaml"


def model(config: Path, folder: Path, *flags: str) -> Any:
    where = ["--trainer.default_root_dir", str(folder), "--trainer.logger", "false"]
    return instantiate(["--config", str(config), *where, *flags]).model


@pytest.mark.parametrize("name", ["GumbelSoftmax", "GumbelRao", "ScoreFunction"])
def test_fit_and_compare_make_the_same_estimator(name: str, tmp_path: Path) -> None:
    """The configuration has ``GumbelSoftmax(hard=True)``; a flag must not keep ``hard``."""
    plain = getattr(import_module("vaekit.estimators"), name)().config
    key = "--model.estimator"
    for flags in ([key, name], [f"{key}={name}"], [key, f"vaekit.estimators.{name}"], [key, json.dumps(plain)],
                  [key, json.dumps(estimator_config(name))]):  # fmt: skip
        assert model(DISCRETE, tmp_path, *flags).estimators["y"].config == plain
    assert model(DISCRETE, tmp_path).estimators["y"].hard  # without a flag


def test_arguments_are_for_the_class_named_before_them(tmp_path: Path) -> None:
    hot = ("--model.estimator.temperature", "0.9")
    found = model(DISCRETE, tmp_path, "--model.estimator", "GumbelSoftmax", *hot).estimators["y"]
    assert (found.hard, found.config["init_args"]["temperature"]) == (False, 0.9)
    assert model(DISCRETE, tmp_path, *hot).estimators["y"].hard  # an argument alone changes nothing else
    for undone in (hot, ("--model.init_args.estimator.init_args.temperature=0.9",)):
        with pytest.raises(ConfigError, match=r"--model\.estimator resets.*would undo --model\..*temperature"):
            model(DISCRETE, tmp_path, *undone, "--model.estimator", "GumbelSoftmax")


def test_other_components(tmp_path: Path) -> None:
    flags = ("--model.latents.l", "LibrarySize", "--model.objective", "ELBO", "--model.likelihood", "Poisson")
    made = model(MIXED, tmp_path, *flags)
    assert list(made.latents) == ["y", "z", "l"]
    assert (made.objective.beta, made.objective.warmup) == (1.0, 0.0)
    assert type(made.networks.likelihood).__name__ == "Poisson"
    other = model(MIXED, tmp_path, "--model.latents.y", "Categorical")  # required arguments are kept
    assert other.latents["y"].state_shape == model(MIXED, tmp_path).latents["y"].state_shape
    nested = {"class_path": "ScoreFunction", "init_args": {"baseline": {"class_path": "MovingAverage"}}}
    filled = with_defaults(nested, "model.estimator")["init_args"]
    assert filled["baseline"] == {"class_path": "MovingAverage", "init_args": {"decay": 0.9}}
    assert filled["num_samples"] is None


def test_names_that_two_packages_have() -> None:
    for key, package in (("model.likelihood", "likelihoods"), ("model.latents.z", "latents")):
        text = expand_class_defaults(key, "Gaussian")
        cls = import_module(f"vaekit.{package}").Gaussian
        known = inspect.signature(cls).parameters
        assert set(json.loads(text)["init_args"]) == {k for k, p in known.items() if p.default is not p.empty}


@pytest.mark.parametrize("key", BASES)
def test_all_defaults_are_plain(key: str) -> None:
    path = "model.latents.x" if key == "latents" else f"model.{key}"
    for name, cls in class_names(BASES[key]).items():
        if cls.__module__.startswith("vaekit."):
            text = json.dumps(with_defaults({"class_path": name}, path))
            assert json.loads(text)["class_path"] == cls.__name__


@pytest.mark.parametrize("name", ["nb", "ZINB", "normal"])
def test_common_names_of_likelihoods(name: str, tmp_path: Path) -> None:
    """The same class by name in Python, by flag, and in a configuration, alone or as a class path."""
    expected = GaussianVAE(765, name).networks.likelihood.config
    likelihoods = [model(MIXED, tmp_path, "--model.likelihood", name).networks.likelihood]
    for value in (name, {"class_path": name}):
        config = tmp_path / "mine.yaml"
        section = {"class_path": "vaekit.GaussianVAE", "init_args": {"likelihood": value}}
        data = {"class_path": "vaekit.data.GeneExpressionData"}
        config.write_text(json.dumps({"data": data, "model": section}))
        likelihoods.append(model(config, tmp_path).networks.likelihood)
    assert [likelihood.config for likelihood in likelihoods] == [expected] * 3


def test_unknown_name_of_a_likelihood(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.likelihood: class 'znb' not found\. Did you mean 'zinb'\?"):
        model(MIXED, tmp_path, "--model.likelihood", "znb")
    with pytest.raises(ConfigError, match=r"GaussianVAE: likelihood='znb' is not a Likelihood\. Did you mean 'zinb'\?"):
        GaussianVAE(5, "znb")


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("model.estimator", "evil.Thing"),
        ("model.estimator", "vaekit.cli.main.main"),
        ("model.estimator", "auto"),
        ("model.estimator", "annotations"),
        ("model.estimator", '{"class_path": 3}'),
        ("model.estimator", '{"class_path": "ReinMax", "init_args": 3}'),
        ("model.estimator", "{" * 10_000),
        ("model.estimator", '{"a":' * 10_000),
        ("model.estimator", ""),
        ("model.hidden", "[3]"),
        ("model", "GaussianVAE"),
        ("trainer.logger", "CSVLogger"),
    ],
)
def test_other_values_stay_unchanged(key: str, text: str) -> None:
    assert expand_class_defaults(key, text) == text
