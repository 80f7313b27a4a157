"""Diagnosis of a configuration that the parser rejects: the key, the value, and the nearest valid name."""

from __future__ import annotations

import inspect
import itertools
import math
import numbers
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Literal

import pytorch_lightning as pl

from vaekit._core.class_paths import check_class_path
from vaekit._core.component_names import class_names, find_class
from vaekit.cli.command_parser import describe_types, union_members
from vaekit.cli.config_files import read_config
from vaekit.cli.foreign import LEVELS, loaded_object
from vaekit.data.data_module import DataModule
from vaekit.exceptions import did_you_mean
from vaekit.models import VAE

# arguments of a model that the data determine, by the attribute of the data
FROM_DATA = {"features": "features", "covariates": "covariates", "labels": "observed_categories"}
_SECTIONS = {"model": VAE, "data": DataModule, "seed_everything": bool | int, "ckpt_path": str | None,
             "weights_only": bool | None, "seeds": int, "config": Any}  # fmt: skip


def diagnose(config: Mapping[str, Any]) -> str | None:
    """Return the first problem of a configuration, or None if all keys, classes and values fit their annotations."""
    missing: list[str] = []
    for key, value in config.items():
        if key == "trainer":
            problems = _check_arguments(pl.Trainer, value, "trainer", missing)
        elif key in _SECTIONS:
            problems = _check_value(value, _SECTIONS[key], key, missing)
        else:
            return f"{key!r} is not a key of a configuration. {did_you_mean(str(key), ('trainer', *_SECTIONS))}"
        if problem := next(problems, None):
            return problem
    absent = [key for key in ("model", "data") if key not in config]
    missing += [f"the configuration lacks {' and '.join(absent)}. Pass --config FILE.yaml."] if absent else []
    return missing[0] if missing else None


def _check_value(value: Any, hint: Any, key: str, missing: list[str]) -> Iterator[str]:
    """Yield the problems of a value by its annotation; problems of absent arguments go to ``missing``."""
    options = union_members(hint)
    classes = [option for option in options if inspect.isclass(option) and option.__module__ != "builtins"]
    words = [word for option in options if typing.get_origin(option) is Literal for word in typing.get_args(option)]
    if any(_matches(value, option) for option in options) or value in words:
        return
    lengths = _fixed_lengths(options)
    if isinstance(value, list) and lengths and len(value) not in lengths:
        yield f"{key}={value!r} must have {' or '.join(map(str, lengths))} items."
    elif isinstance(value, list) and (items := _inner(options, Sequence, Iterable)):
        for index, item in enumerate(value):
            yield from _check_value(item, items[min(index, len(items) - 1)], f"{key}[{index}]", missing)
    elif isinstance(value, Mapping) and "class_path" not in value and (items := _inner(options, Mapping)):
        for name, item in value.items():
            yield from _check_value(item, items[-1], f"{key}.{name}", missing)
    elif classes and isinstance(value, str | Mapping):
        yield from _check_component(value, tuple(classes), key, missing)
    elif isinstance(value, str) and any(typing.get_origin(option) is Callable for option in options):
        check_class_path(value, key)
    elif classes or not any(_may_hold(option, value) for option in options):
        yield f"{key}={value!r} must be {describe_types(hint)}."


def _matches(value: Any, option: Any) -> bool:
    """Return whether a plain value certainly fits one annotation."""
    if option is float and isinstance(value, str):  # YAML reads 1e-3 as text, the parser as a number
        try:
            return math.isfinite(float(value))
        except ValueError:
            return False
    if isinstance(value, bool) or value is None:
        return option in (Any, object, NoneType if value is None else bool)
    number = {int: numbers.Integral, float: numbers.Real}.get(option)
    return option in (Any, object) or isinstance(value, number or (str if option is str else ()))


def _fixed_lengths(options: Iterable[Any]) -> list[int]:
    """Return the lengths of the tuples that an annotation accepts, if it accepts nothing else."""
    items = [typing.get_args(option) for option in options if option is not NoneType]
    tuples = [typing.get_origin(option) is tuple for option in options if option is not NoneType]
    return [len(each) for each in items] if all(tuples) and Ellipsis not in itertools.chain(*items) else []


def _may_hold(option: Any, value: Any) -> bool:
    """Return whether an annotation is a container of this kind of value, whose items are not checked."""
    kind = typing.get_origin(option) or option
    return isinstance(value, Mapping | list) and inspect.isclass(kind) and isinstance(value, kind)


def _inner(options: Iterable[Any], *kinds: type) -> tuple[Any, ...]:
    """Return the annotations of the items of a list or mapping."""
    for option in options:
        origin = typing.get_origin(option)
        if inspect.isclass(origin) and origin is not type and issubclass(origin, kinds):
            return tuple(item for item in typing.get_args(option) if item is not ...)
    return ()


def _check_component(value: Any, bases: tuple[type, ...], key: str, missing: list[str]) -> Iterator[str]:
    """Yield the problems of a class name, or of a mapping with ``class_path`` and ``init_args``."""
    if isinstance(value, str):
        value = read_config(value)[1] if Path(value).is_file() else {"class_path": value}
    path = check_class_path(value.get("class_path"), key)
    names = {name: cls for base in bases for name, cls in class_names(base).items()}
    cls = loaded_object(path) if "." in path else next(filter(None, (find_class(base, path) for base in bases)), None)
    if not (inspect.isclass(cls) and issubclass(cls, bases)):
        name = path.rpartition(".")[2]
        yield f"{key}: class {path!r} not found. {did_you_mean(name, names)}"
    else:
        yield from _check_arguments(cls, value.get("init_args") or {}, key, missing)


def _check_arguments(cls: type, arguments: Any, key: str, missing: list[str]) -> Iterator[str]:
    parameters = inspect.signature(cls).parameters
    if not isinstance(arguments, Mapping):
        yield f"{key}={arguments!r} must be a mapping of arguments."
        return
    names = [name for name in parameters if name not in (*FROM_DATA, "adata", "args", "kwargs")]
    try:
        hints = typing.get_type_hints(cls.__init__)  # type: ignore[misc]  # of a class
    except (NameError, TypeError, AttributeError):  # names that are imported for type checkers only
        hints = {}
    for name, value in arguments.items():
        if name not in parameters and "kwargs" not in parameters:
            hint = _argument_of_latents(cls, str(name), value, names) or did_you_mean(str(name), names)
            yield f"{key}: {cls.__name__} has no argument {name!r}. {hint}"
        elif name in hints:
            yield from _check_value(value, hints[name], f"{key}.{name}", missing)
    required = [name for name in names if parameters[name].default is inspect.Parameter.empty]
    if absent := [name for name in required if name not in arguments]:
        missing.append(f"{key}: {cls.__name__} lacks {', '.join(map(repr, absent))}.")


def _argument_of_latents(cls: type, name: str, value: Any, names: list[str]) -> str:
    """Return where a model has an argument of its latents: itself, or each latent if these are named."""
    if name == "estimator" and "latents" in names:
        return f"{cls.__name__} takes --model.latents.NAME.estimator, such as --model.latents.y.estimator."
    if name != "latents" or not isinstance(value, Mapping):
        return ""
    for latent in value.values():
        for argument in (latent.get("init_args") or latent) if isinstance(latent, Mapping) else ():
            if argument in names:
                return f"{cls.__name__} takes --model.{argument}."
    return (
        f"Latent {', '.join(map(repr, value))}: only MixedVAE and VAE name their latents, as in pbmc_mixed.yaml and "
        "pbmc_topics.yaml."
    )


def merge_configs(old: Mapping[str, Any], new: Mapping[str, Any], replaced: list[str], key: str = "") -> dict[str, Any]:
    """Return two configurations merged as the parser does.

    Components by name, such as latents, are replaced as a whole; ``replaced`` receives their names.

    Examples
    --------
    >>> old = {"model": {"init_args": {"latents": {"y": {"class_path": "Categorical"}, "z": {}}}}}
    >>> new = {"model": {"init_args": {"latents": {"z": {"class_path": "Gaussian"}}}}}
    >>> merge_configs(old, new, names := []) == new, names
    (True, ["'y', 'z' in model.latents"])
    """
    merged = dict(old)
    for name, value in new.items():
        before, path, merged[name] = merged.get(name), f"{key}.{name}".removeprefix("."), value
        if not isinstance(value, Mapping) or not isinstance(before, Mapping):
            continue
        if key.endswith("init_args") and value and not {"class_path", "init_args"} & (before.keys() | value.keys()):
            replaced.append(f"{', '.join(map(repr, before))} in {path.replace('.init_args', '')}")
        elif value.get("class_path", before.get("class_path")) == before.get("class_path"):
            merged[name] = merge_configs(before, value, replaced, path)
    return merged


def merge_flag(config: Any, key: str, value: Any) -> Any:
    """Return a configuration in which a flag has set a key; flags omit levels such as ``init_args``.

    Examples
    --------
    >>> merge_flag({"model": "GaussianVAE"}, "model.latent_dim", 3)
    {'model': {'class_path': 'GaussianVAE', 'init_args': {'latent_dim': 3}}}
    """
    added = [*value] if isinstance(value, list) else [value]

    def update(node: Any, parts: Sequence[str]) -> Any:
        if not parts:
            return [*(node if isinstance(node, list) else ()), *added] if key.endswith("+") else value
        if isinstance(node, list):  # flags of a list apply to its last item
            return [*node[:-1], update(node[-1] if node else None, parts)]
        node = {"class_path": node} if isinstance(node, str) else dict(node) if isinstance(node, Mapping) else {}
        if {"class_path", "init_args"} & node.keys():
            return {**node, "init_args": update(node.get("init_args") or {}, parts)}
        return {**node, parts[0]: update(node.get(parts[0]), parts[1:])}

    return update(config, [part for part in key.removesuffix("+").split(".") if part not in LEVELS])
