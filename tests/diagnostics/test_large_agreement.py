"""Agreement with labels of more observations than k-means is fitted to."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from vaekit.diagnostics import agreement


def test_clusters_of_many_observations(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.cluster import KMeans

    fitted: list[int] = []
    fit = KMeans.fit
    monkeypatch.setattr(KMeans, "fit", lambda self, x: fitted.append(len(x)) or fit(self, x))
    monkeypatch.setattr(agreement, "MAX_FITTED", 60)
    labels = np.arange(300) % 3
    points = torch.from_numpy(labels[:, None] * 10 + np.random.default_rng(0).normal(size=(300, 2))).float()
    model: Any = SimpleNamespace(latents={"z": SimpleNamespace(is_single_categorical=False, is_nuisance=False)})
    order = np.random.default_rng(1).permutation(300)
    first = agreement.label_agreement(model, {"z": points}, labels)
    assert first == agreement.label_agreement(model, {"z": points[order]}, labels[order])
    assert first is not None
    assert first.ari == 1
    assert fitted == [60, 60]
