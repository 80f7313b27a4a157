"""Section on the model and the settings of its training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vaekit.analysis.report.page import Code, Facts, Fold, Section, Table
from vaekit.analysis.report.subject import Subject


def settings_section(subject: Subject) -> Section:
    """Return the section on the settings."""
    model = subject.model
    arguments = subject.facts.model["init_args"]
    num_weights = sum(parameter.numel() for parameter in model.parameters())
    rows = [("Model", f"{_class_name(subject.facts.model)}, {num_weights:,} weights")]
    hidden = {"latents", "features", "covariates"}
    rows += [(_title(key), describe(value)) for key, value in arguments.items() if key not in hidden]
    latents = [
        [name, type(latent).__name__, _size(latent), ", ".join(latent.parents) or "none",
         type(latent.estimator).__name__]
        for name, latent in model.latents.items()
    ]  # fmt: skip
    columns = ["Latent", "Distribution", "Size", "Parents", "Gradient estimator"]
    complete = "The complete configuration" if subject.facts.has_config else "The configuration of model and data"
    return Section(
        "Model and settings",
        [
            Table("Latent variables", columns, latents, frozenset(range(5))),
            Facts(rows),
            Fold(f"{complete} (YAML)", [Code(subject.facts.config)]),
        ],
    )


def _size(latent: Any) -> str:
    if latent.is_proportions or latent.state_shape is None:
        return f"{latent.size} {latent.unit}s"
    variables, states = latent.state_shape
    return f"{states} states" if variables == 1 else f"{variables} variables of {states} states"


def _class_name(config: Mapping[str, Any]) -> str:
    return str(config["class_path"]).rpartition(".")[2]


def _title(key: str) -> str:
    return key.replace("_", " ").capitalize()


def describe(value: Any) -> str:
    """Return a value of a configuration as text; a component as a call with the arguments that are not None.

    Examples
    --------
    >>> describe({"class_path": "vaekit.networks.MLP", "init_args": {"hidden": [128], "dropout": None}})
    'MLP(hidden=[128])'
    >>> describe([128, 64]), describe(None)
    ('128, 64', 'default')
    """
    if isinstance(value, Mapping) and "class_path" in value:
        items = {key: item for key, item in (value.get("init_args") or {}).items() if item is not None}
        return f"{_class_name(value)}({', '.join(f'{key}={_argument(item)}' for key, item in items.items())})"
    if isinstance(value, list | tuple):
        return ", ".join(map(describe, value)) or "none"
    return "default" if value is None else str(value)


def _argument(value: Any) -> str:
    return describe(value) if isinstance(value, Mapping) else repr(value)
