"""Versions of the packages that results depend on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from vaekit._core.version import __version__

PACKAGES = (
    "torch",
    "pytorch-lightning",
    "numpy",
    "scipy",
    "pandas",
    "anndata",
    "scanpy",
    "scikit-learn",
    "torchvision",
)


def package_versions() -> dict[str, str]:
    """Return the versions of vaekit, of Python and of the packages that results depend on."""
    versions = {"vaekit": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
