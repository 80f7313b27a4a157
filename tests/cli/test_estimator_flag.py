"""``--model.estimator`` sets the estimator of the only discrete latent, regardless of its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from vaekit.cli.class_defaults import resolve_estimator_key
from vaekit.cli.config_files import read_config
from vaekit.cli.instantiate import instantiate
from vaekit.exceptions import ConfigError

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("name", ["digits_mixed", "pbmc_mixed", "digits_discrete"])
def test_one_discrete_latent(name: str, tmp_path: Path) -> None:
    where = ["--trainer.default_root_dir", str(tmp_path), "--trainer.logger", "false"]
    config = ["--config", str(CONFIGS / f"{name}.yaml"), *where]
    made = instantiate([*config, "--model.estimator", "GumbelSoftmax", "--model.estimator.temperature=0.7"]).model
    assert made.estimators["y"].config["init_args"]["temperature"] == 0.7
    assert type(made.estimators["y"]).__name__ == "GumbelSoftmax"


def test_bits_and_full_class_paths() -> None:
    _, config = read_config(str(CONFIGS / "mnist_bernoulli.yaml"))
    assert resolve_estimator_key("model.estimator", config) == "model.latents.b.estimator"
    key = resolve_estimator_key("model.estimator.temperature", config)
    assert key == "model.latents.b.estimator.temperature"


@pytest.mark.parametrize("name", ["digits_gaussian", "digits_sequential", "pbmc_topics"])
def test_the_key_stays_without_one_discrete_latent(name: str) -> None:
    _, config = read_config(str(CONFIGS / f"{name}.yaml"))
    assert resolve_estimator_key("model.estimator", config) == "model.estimator"


def test_several_are_told_apart(tmp_path: Path) -> None:
    two = '{"latents": {"a": {"class_path": "Categorical"}, "b": {"class_path": "vaekit.latents.Bernoulli"}}}'
    config = f'{{"model": {{"class_path": "vaekit.MixedVAE", "init_args": {two}}}}}'
    assert resolve_estimator_key("model.estimator", read_config(config)[1]) == "model.estimator"
    with pytest.raises(ConfigError, match=r"--model\.latents\.NAME\.estimator"):
        instantiate(["--config", str(CONFIGS / "digits_mixed.yaml"), "--config", config, "--model.estimator=ARM"])
