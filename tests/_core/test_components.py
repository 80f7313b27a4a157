"""Components as plain data: their configuration, and components from a configuration."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from vaekit._core.components import Component, class_path, from_config, to_config
from vaekit.estimators import (
    Enumerate,
    GumbelSoftmax,
    LearnedBaseline,
    LeaveOneOut,
    MovingAverage,
    Pathwise,
    ScoreFunction,
)
from vaekit.exceptions import ConfigError


def test_config_is_the_class_path_and_all_arguments() -> None:
    assert GumbelSoftmax(0.3, num_samples=2).config == {
        "class_path": "vaekit.estimators.GumbelSoftmax",
        "init_args": {"temperature": 0.3, "hard": False, "num_samples": 2},
    }


def test_nested_components_round_trip() -> None:
    estimator = ScoreFunction(num_samples=3, baseline=MovingAverage(decay=0.8))
    assert estimator.config["init_args"]["baseline"] == {
        "class_path": "vaekit.estimators.MovingAverage",
        "init_args": {"decay": 0.8},
    }
    again = from_config(estimator.config)
    assert type(again) is ScoreFunction
    assert type(again.baseline) is MovingAverage
    assert again.baseline.running.decay == 0.8
    assert again.num_samples == 3
    assert again.config == estimator.config


def test_arguments_are_recorded_as_given() -> None:
    """None stands for the number that the baseline needs; that number is not recorded."""
    estimator = ScoreFunction(baseline=LeaveOneOut())
    assert estimator.num_samples == 2
    assert estimator.config["init_args"]["num_samples"] is None


def test_containers_of_components_round_trip() -> None:
    components = from_config({"a": [Pathwise(2).config, Enumerate(8).config], "b": {"c": 1}, "d": "text", "e": None})
    assert components["a"][0].num_samples == 2
    assert components["a"][1].max_states == 8
    assert (components["b"], components["d"], components["e"]) == ({"c": 1}, "text", None)


def test_init_args_may_be_missing() -> None:
    assert from_config({"class_path": "vaekit.estimators.LeaveOneOut"}).config["init_args"] == {}
    assert from_config({"class_path": "vaekit.estimators.Pathwise", "init_args": None}).num_samples == 1


def test_config_survives_a_checkpoint_that_loads_weights_only() -> None:
    config = ScoreFunction(num_samples=3, baseline=MovingAverage(decay=np.float64(0.8))).config
    buffer = io.BytesIO()
    torch.save(config, buffer)
    buffer.seek(0)
    assert torch.load(buffer, weights_only=True) == config


def test_a_subclass_records_its_own_arguments() -> None:
    class Base(Component):
        def __init__(self, a: int = 1) -> None:
            self.a = a

    class Derived(Base):
        def __init__(self, b: str, *, c: float = 2.0) -> None:
            super().__init__(a=5)
            self.b = b

    assert Derived("x").config["init_args"] == {"b": "x", "c": 2.0}
    assert Base(3).config["init_args"] == {"a": 3}


@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "subprocess.Popen",
        "torch.nn.Linear",
        "vaekit_evil.Thing",
        "vaekitx.estimators.Pathwise",
        "builtins.eval",
        "Pathwise",
        "",
        "vaekit",
        ".vaekit.estimators.Pathwise",
    ],
)
def test_class_paths_outside_vaekit_are_rejected(path: str) -> None:
    with pytest.raises(ConfigError, match=r"outside vaekit|not a public class"):
        from_config({"class_path": path, "init_args": {}})


def test_rejected_class_paths_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trap_module.py").write_text("class Trap:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match="outside vaekit"):
        from_config({"class_path": "trap_module.Trap"})
    with pytest.raises(ConfigError, match="outside vaekit"):
        from_config(
            {
                "class_path": "vaekit.estimators.ScoreFunction",
                "init_args": {"baseline": {"class_path": "trap_module.Trap"}},
            }
        )
    assert "trap_module" not in sys.modules


@pytest.mark.parametrize(
    "path",
    [
        "vaekit.graph.expectation.torch.nn.Linear",
        "vaekit.models.checkpoint.torch",
        "vaekit.estimators.estimator.nn",
        "vaekit.models.checkpoint.from_config",
        "vaekit.exceptions.ConfigError",
        "vaekit.graph.expectation.Tensor",
    ],
)
def test_imports_of_vaekit_are_not_components(path: str) -> None:
    with pytest.raises(ConfigError, match=r"not name a component|module .* not found"):
        from_config({"class_path": path})


def test_unknown_class_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'vaekit.estimators.Pathwize'.*Did you mean 'Pathwise'\?"):
        from_config({"class_path": "vaekit.estimators.Pathwize"})
    with pytest.raises(ConfigError, match=r"module 'vaekit.estimator' not found"):
        from_config({"class_path": "vaekit.estimator.Pathwise"})


def test_unknown_argument_suggests_the_nearest() -> None:
    with pytest.raises(
        ConfigError, match=r"GumbelSoftmax: argument 'temprature' not found. Did you mean 'temperature'\?"
    ):
        from_config({"class_path": "vaekit.estimators.GumbelSoftmax", "init_args": {"temprature": 1.0}})


@pytest.mark.parametrize(
    "config",
    [
        {"class_path": "vaekit.estimators.LearnedBaseline"},
        {"class_path": "vaekit.estimators.Estimator"},
        {"class_path": "vaekit.estimators.Pathwise", "init_args": [1]},
    ],
    ids=["missing argument", "abstract class", "arguments as a list"],
)
def test_invalid_configs_are_named(config: dict) -> None:
    with pytest.raises(ConfigError, match=str(config["class_path"])):
        from_config(config)


def test_values_that_are_not_plain_are_named() -> None:
    with pytest.raises(ConfigError, match=r"network is a torch.nn.modules.linear.Linear.*vaekit component"):
        _ = LearnedBaseline(torch.nn.Linear(2, 1)).config
    with pytest.raises(ConfigError, match=r"sizes\[1\]"):
        to_config([1, object()], "sizes")
    with pytest.raises(ConfigError, match=r"options\.key"):
        to_config({"key": torch.zeros(2)}, "options")


def test_plain_data() -> None:
    data = {"a": (1, 2.5), "b": [True, None, "x"], 3: Path("some") / "file"}
    assert to_config(data) == {"a": [1, 2.5], "b": [True, None, "x"], "3": str(Path("some") / "file")}


@pytest.mark.parametrize(
    "value", [np.float64(0.5), np.int64(3), np.bool_(True), np.str_("x")], ids=lambda v: type(v).__name__
)
def test_numpy_scalars_become_numbers_of_python(value: object) -> None:
    assert type(to_config(value)) in (float, int, bool, str)


def test_class_path_is_the_shortest_public_one() -> None:
    assert class_path(Pathwise) == "vaekit.estimators.Pathwise"
    assert class_path(Component) == "vaekit._core.components.Component"
