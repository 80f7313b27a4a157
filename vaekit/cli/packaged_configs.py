"""Configurations that are part of the package, by name: ``vaekit configs`` and ``vaekit fit --config NAME``."""

from __future__ import annotations

import re
from pathlib import Path

from vaekit._core.config_store import find_config, packaged_configs
from vaekit.exceptions import ConfigError

NAME = re.compile(r"\w+")


def resolve_config(text: str) -> str:
    """Return the value of ``--config``, with the name of a packaged configuration replaced by its path.

    Parameters
    ----------
    text : str
        Path of a file, which takes precedence; name of a packaged configuration; or YAML text.

    Raises
    ------
    ConfigError
        If it is the name of neither, or the path of a missing file that the package contains.
    """
    if "{" in text or "\n" in text or Path(text).expanduser().is_file():
        return text
    if NAME.fullmatch(text):
        return str(find_config(text))
    path = Path(text)
    if not path.expanduser().exists() and path.name == f"{path.stem}.yaml" and path.stem in packaged_configs():
        raise ConfigError(f"{text} does not exist. Pass --config {path.stem} for the packaged configuration.")
    return text


def first_sentence(path: Path) -> str:
    """Return the first sentence of the comment at the top of a configuration, up to a colon or period."""
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = " ".join(line.lstrip("# ") for line in lines[: next(i for i, x in enumerate(lines) if x[:1] != "#")])
    return re.split(r"[.:](?:\s|$)", comment)[0]


def configs(name: str | None = None) -> None:
    """List the packaged configurations, or print one of them.

    Each is a name for --config. To change one, copy it: vaekit configs pbmc_mixed > mine.yaml

    Parameters
    ----------
    name : str, optional
        Configuration to print, exactly as in the package. None: a list with a line each.

    Examples
    --------
    vaekit configs pbmc_mixed > mine.yaml
    """
    if name is not None:
        print(find_config(name).read_text(encoding="utf-8"), end="")
        return
    paths = packaged_configs()
    width = max(map(len, paths)) + 2
    for config, path in paths.items():
        print(f"{config:<{width}}{first_sentence(path)}")
