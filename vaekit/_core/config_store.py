"""Configurations that are part of the package, by name."""

from __future__ import annotations

from pathlib import Path

from vaekit.exceptions import ConfigError, did_you_mean

PACKAGE = Path(__file__).parents[1]


def packaged_configs() -> dict[str, Path]:
    """Return the packaged configurations by name.

    They lie in the directory ``configs`` of the installed package, or next to the package in a clone.
    """
    directory = next(path for path in (PACKAGE / "configs", PACKAGE.parent / "configs") if path.is_dir())
    return {path.stem: path for path in sorted(directory.glob("*.yaml"))}


def find_config(name: str) -> Path:
    """Return the path of a packaged configuration.

    Raises
    ------
    ConfigError
        If it does not exist.

    Examples
    --------
    >>> find_config("pbmc_mixed").name
    'pbmc_mixed.yaml'
    """
    configs = packaged_configs()
    if name not in configs:
        hint = did_you_mean(name, configs, limit=len(configs))
        listed = "" if hint.startswith("Available") else f" Available: {', '.join(configs)}."
        raise ConfigError(f"configuration {name!r} not found, neither as a file nor in the package. {hint}{listed}")
    return configs[name]
