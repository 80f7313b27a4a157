"""Texts with URLs show no credentials."""

from __future__ import annotations

import copy
import json
import pickle

from vaekit._core.urls import RemoteURL, hide_credentials

TOKEN = "Q7kSecret"


def test_text_without_credentials() -> None:
    url = RemoteURL(f"https://ada:{TOKEN}@example.org/cells.h5ad?X-Signature={TOKEN}&n=1#{TOKEN}")
    shown = "https://example.org/cells.h5ad"
    assert [str(url), f"{url}", url, RemoteURL(url), repr(url)] == [shown, shown, shown, shown, repr(shown)]
    assert TOKEN in url.address == RemoteURL(url).address
    for other in (copy.deepcopy(url), pickle.loads(pickle.dumps(url))):
        assert other == shown
        assert type(other) is str
    assert TOKEN not in json.dumps([url])
    for text in (
        f"vaekit fit '{url.address}' --seed 1", f"path: {url.address}\n", json.dumps({"path": [url.address, "a"]}),
    ):  # fmt: skip
        assert TOKEN not in hide_credentials(text)
        assert shown in hide_credentials(text)
    assert (
        hide_credentials("see https://example.org/page? Yes: a/b?c=d") == "see https://example.org/page? Yes: a/b?c=d"
    )
