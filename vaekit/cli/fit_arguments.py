"""Short form of ``vaekit fit``: files of cells instead of a configuration, and flags without a section.

``vaekit fit cells.h5ad --batch_key donor`` becomes the configuration of :func:`vaekit.callbacks.recipes.fit_config`, as
text, and ``--data.batch_key donor``. All else is the same as with a configuration.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from vaekit._core.config_store import packaged_configs
from vaekit._core.urls import is_url
from vaekit.callbacks.fit_settings import setting_key
from vaekit.callbacks.recipes import LABELS_KEY, choose_kind, fit_config
from vaekit.data.cells.file_names import file_name
from vaekit.exceptions import ConfigError

WITHOUT_VALUE = ("-h", "--help", "--print_config")
OF_COMMAND = {  # flags of `fit` that are not settings of a section
    "config", "help", "print_config", "ckpt_path", "weights_only", "seeds", "seed_everything", "color", "figure",
    "model", "data", "trainer", "latents",
}  # fmt: skip
Flag = tuple[str, str | None, str]  # name without leading "--", value, and text of the token


def complete_arguments(arguments: Sequence[str]) -> list[str]:
    """Return the flags of ``fit`` with a configuration for its files, and with complete keys.

    Parameters
    ----------
    arguments : sequence of str
        Files and flags of ``vaekit fit``.

    Raises
    ------
    ConfigError
        If a file is a configuration or a checkpoint, or a flag of the short form does not exist.
    DataError
        If the cells cannot be opened.

    Examples
    --------
    >>> complete_arguments(["--config", "pbmc_mixed", "--batch_key", "donor", "--model.hidden=[64]"])
    ['--config', 'pbmc_mixed', '--data.batch_key', 'donor', '--model.hidden=[64]']
    """
    files, flags = _split(arguments)
    latents, labels = ([value or "" for name, value, _ in flags if name == flag] for flag in ("latents", "labels"))
    has_config = any(name in ("config", "-c") for name, _, _ in flags)
    last = (values[-1] if values else None for values in (latents, labels))
    kind = None if has_config or not files else choose_kind(*last)
    flags = [(_complete(name, kind), value, text) for name, value, text in flags]
    if not files and not latents:
        return [token for name, value, text in flags for token in _tokens(name, value, text)]
    if not files or (has_config and latents):
        raise ConfigError(
            "latents is a flag for files of cells without a configuration, as in: vaekit fit cells.h5ad --latents mixed"
        )
    for file in files:
        _check_cells(file)
    cells = files[0] if len(files) == 1 else files
    if has_config:
        start = []
        path = cells if isinstance(cells, str) else json.dumps(cells)
        end = ["--data.path", path]
    else:
        settings = {name: _load(name, value) for name, value, _ in flags if value is not None}
        config = fit_config(cells, kind or "", settings)
        config["trainer"]["default_root_dir"] = f"runs/{file_name(files[0])}"
        start, end = ["--config", json.dumps(config)], []
    rest = (token for name, value, text in flags if name != "latents" for token in _tokens(name, value, text))
    return [*start, *rest, *end]


def _split(arguments: Sequence[str]) -> tuple[list[str], list[Flag]]:
    """Return the files, and the name, value and text of each flag; each flag has one value."""
    files: list[str] = []
    flags: list[Flag] = []
    tokens = list(arguments)
    while tokens:
        token = tokens.pop(0)
        if not token.startswith("-") or token == "-":
            files.append(token)
            continue
        name, equals, value = token.partition("=")
        if not equals and token not in WITHOUT_VALUE and tokens:
            flags.append((name.removeprefix("--"), tokens.pop(0), name))
        else:
            flags.append((name.removeprefix("--"), value if equals else None, token))
    return files, flags


def _complete(name: str, kind: str | None) -> str:
    """Return the key of a flag; an unknown one without a kind of latents stays unchanged, for the parser's message."""
    if "." in name or name.startswith("-") or name in OF_COMMAND:
        return name
    try:
        key = setting_key(name, kind)
        return f"{key}+" if key == "trainer.callbacks" else key  # added, as by fit in Python
    except ConfigError:
        if kind is not None:
            raise
        return name


def _tokens(name: str, value: str | None, text: str) -> list[str]:
    flag = name if name.startswith("-") else f"--{name}"
    if "=" in text or flag.endswith("+"):
        return [f"{flag}={value}"]
    return [flag] if value is None else [flag, value]


def _load(key: str, text: str) -> Any:
    """Return the value of a flag as plain data, or the text itself if it is a name or not valid YAML."""
    value: Any = text
    with contextlib.suppress(yaml.YAMLError, ValueError, RecursionError):
        value = yaml.safe_load(text)
    is_name = key.startswith("data.") or key == LABELS_KEY  # of a layer or column, such as 010
    return text if is_name and value is not None else value


def _check_cells(file: str) -> None:
    """Raise a ConfigError if a file is not one of cells by its name."""
    path = Path(file)
    if path.suffix in (".yaml", ".yml") or (not path.exists() and file in packaged_configs()):
        raise ConfigError(f"{file} is a configuration. Pass it as --config {file}")
    if path.suffix == ".ckpt" and not is_url(file):
        raise ConfigError(f"{file} is a checkpoint. Pass the cells, and --ckpt_path {file} to resume its run.")
