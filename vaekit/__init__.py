"""vaekit: expectations you can differentiate, and the variational autoencoders they train.

Attributes are imported on first use, so that ``vaekit --help`` imports neither torch nor Lightning.
"""

from __future__ import annotations

import importlib
from typing import Any

_MODELS = ("VAE", "GaussianVAE", "DiscreteVAE", "MixedVAE", "SequentialVAE", "HierarchicalVAE", "load", "save")
_PACKAGES = ("analysis", "callbacks", "data", "diagnostics", "distributions", "estimators", "exceptions", "graph",
             "latents", "likelihoods", "models", "networks", "optim", "plotting")  # fmt: skip
_HOME = {
    "expectation": "vaekit.graph.expectation",
    "importance_weighted_bound": "vaekit.graph.importance_weighted",
    "gradient_report": "vaekit.diagnostics",
    "Batch": "vaekit.batch",
    "VaekitError": "vaekit.exceptions",
    "fit": "vaekit.callbacks.workflow",
    "__version__": "vaekit._core.version",
    **dict.fromkeys(_MODELS, "vaekit.models"),
}
_MODULES = {
    **{name: f"vaekit.{name}" for name in _PACKAGES},
    "objectives": "vaekit.models.objectives",
    "regularizers": "vaekit.models.regularizers",
    "returns": "vaekit.graph.returns",
}

__all__ = [*_HOME, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    raise AttributeError(f"module 'vaekit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
