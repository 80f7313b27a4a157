"""The axes of the figure of a gradient report, and the imports of a report without a progress bar."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from torch.distributions import Bernoulli

from vaekit import gradient_report
from vaekit.estimators import DisARM, ScoreFunction
from vaekit.plotting import plot_gradient_report


@pytest.mark.parametrize(("low", "high"), [(0.9, 1.1), (0.3, 0.9), (1.0, 8.0), (0.02, 0.9), (1.0, 9000.0)])
def test_an_axis_has_readable_ticks(low: float, high: float) -> None:
    leaf = torch.zeros(2, requires_grad=True)
    report = gradient_report(
        lambda b: b, Bernoulli(logits=leaf), [ScoreFunction(), DisARM()], leaf, 20, timings=1, progress=False
    )
    report["milliseconds"] = [low, high]
    figure = plot_gradient_report(report)
    axis = figure.axes[2]
    left, right = axis.get_xlim()
    ticks = [tick for tick in axis.xaxis.get_majorticklocs() if left <= tick <= right]
    assert 2 <= len(ticks) <= 7
    for tick, text in zip(ticks, axis.xaxis.get_major_formatter().format_ticks(ticks), strict=True):
        assert text
        if "mathdefault" not in text:
            assert math.isclose(float(text), tick)


def test_notebook_widgets_are_not_imported_without_a_progress_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)  # importing it is now an error
    leaf = torch.zeros(2, requires_grad=True)

    def report(progress: bool) -> None:
        gradient_report(lambda b: b, Bernoulli(logits=leaf), [ScoreFunction()], leaf, 8, timings=1, progress=progress)

    report(False)
    assert not capsys.readouterr().err
    with pytest.raises(ImportError, match="tqdm"):
        report(True)
