"""Fixtures of the command tests: a machine without an account, and no UMAP except in fixtures of a wider scope."""

from pathlib import Path

import pytest

from vaekit.plotting import embedding_figures


@pytest.fixture(autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the machine's credentials and runs."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))


@pytest.fixture(autouse=True)
def quick_umap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace UMAP, which takes longer than the runs. The run of test_commands.py draws it."""
    monkeypatch.setattr(embedding_figures, "umap_coordinates", lambda points, seed=0: points[:, :2])


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Omit the report at the end of a run, which takes longer than the runs. test_report_command.py writes it."""
    monkeypatch.setattr("vaekit.cli.training_messages.report_run", lambda *args: "")
