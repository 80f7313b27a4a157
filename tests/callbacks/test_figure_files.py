"""Files of figures: their formats, their copies for Weights & Biases, and errors of drawing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from matplotlib.figure import Figure
from models.tiny import adata, trainer
from pytorch_lightning.loggers import CSVLogger

import vaekit
from vaekit.callbacks import FigureWriter
from vaekit.callbacks.history import History, read_history


class ImageLogger(CSVLogger):
    """Logger that keeps the paths of images, as :class:`History` writes them to its file."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        wandb: Any = SimpleNamespace(experiment=None, name="p")
        self.history = History(directory, wandb)

    def log_image(self, key: str, images: list[Any]) -> None:
        self.history.log_image(key, images)


@pytest.mark.parametrize("form", ["png", "svg", "pdf"])
def test_loggers_receive_png_files(tmp_path: Path, form: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FigureWriter, "figures", lambda *_: {"a": Figure(), "b": Figure()})
    loop = trainer(tmp_path)
    loop.logger, loop.datamodule = (logger := ImageLogger(tmp_path)), object()  # type: ignore[attr-defined]
    FigureWriter(figure=form).on_fit_end(loop, None)
    logger.history.finalize("success")
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == [f"a.{form}", f"b.{form}"]
    rows = read_history(tmp_path / "wandb" / "history.jsonl")[1]
    assert [row["key"] for row in rows] == ["figures/a", "figures/b"]
    assert all(Path(row["images"][0]).read_bytes()[1:4] == b"PNG" for row in rows)
    assert logger.history._is_in_run(Path(rows[0]["images"][0]))  # a resumed run logs it again


def test_a_figure_that_fails_does_not_fail_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(FigureWriter, "figures", fail)
    with pytest.warns(UserWarning, match="Figures were not written: MemoryError"):
        model = vaekit.fit(adata(), max_steps=3, directory=tmp_path, progress=False)
    assert not model.training
    assert (tmp_path / "last.ckpt").is_file()


def test_a_resumed_run_keeps_color_and_format_unless_others_are_chosen() -> None:
    first = FigureWriter(color=["age"], figure="pdf")
    for flags, expected in (({}, (["age"], "pdf")), ({"color": ["x"], "figure": "svg"}, (["x"], "svg"))):
        resumed = FigureWriter(**flags)  # type: ignore[arg-type]
        resumed.load_state_dict(first.state_dict())
        assert (resumed.color, resumed.figure) == expected
    assert FigureWriter().figure == "png"
