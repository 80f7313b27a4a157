"""The axes of a gradient report's picture, and what a report without a progress bar leaves alone."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from torch.distributions import Bernoulli

from vaekit import gradient_report
from vaekit.diagnostics import plot_gradient_report
from vaekit.estimators import DisARM, ScoreFunction


@pytest.mark.parametrize(("low", "high"), [(0.9, 1.1), (0.3, 0.9), (1.0, 8.0), (0.02, 0.9), (1.0, 9000.0)])
def test_an_axis_has_ticks_that_can_be_read(low: float, high: float) -> None:
    leaf = torch.zeros(2, requires_grad=True)
    report = gradient_report(
        lambda b: b, Bernoulli(logits=leaf), [ScoreFunction(), DisARM()], leaf, 20, timings=1, progress=False
    )
    report["milliseconds"] = [low, high]
    figure = plot_gradient_report(report)
    axis = figure.axes[2]
    left, right = axis.get_xlim()
    places = [place for place in axis.xaxis.get_majorticklocs() if left <= place <= right]
    assert 2 <= len(places) <= 7
    for place, words in zip(places, axis.xaxis.get_major_formatter().format_ticks(places), strict=True):
        assert words
        if "mathdefault" not in words:
            assert math.isclose(float(words), place)


def test_nothing_of_a_notebook_is_imported_without_a_progress_bar(
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
