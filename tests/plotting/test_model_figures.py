"""Figures of a training: colors and lines of the curves, and names of the states."""

from __future__ import annotations

import numpy as np

from vaekit.plotting.model_figures import code_usage, curves


def test_curves_have_a_color_per_metric_and_dashes_for_validation() -> None:
    two = [(1.0, 2.0), (2.0, 3.0)]
    names = ("val/elbo", "train/elbo", "val/kl_z", "train/kl_y", "train/kl_z")
    for axis in curves(dict.fromkeys(names, two)).axes:
        lines = {line.get_label(): line for line in axis.lines}
        for name, line in lines.items():
            assert line.get_linestyle() == ("--" if name.startswith("val/") else "-")
            assert line.get_color() == lines[name.replace("val/", "train/")].get_color()
        assert len({line.get_color() for line in lines.values()}) == len({name.split("/")[1] for name in lines})


def test_a_single_epoch_is_visible() -> None:
    (line,) = curves({"train/elbo": [(1.0, -5.0)]}).axes[0].lines
    assert line.get_marker() == "o"


def test_states_have_their_names() -> None:
    (axis, _) = code_usage("y", np.eye(2), ["a", "b"], "label", ["B", "T"]).axes
    assert [text.get_text() for text in axis.get_xticklabels()] == ["B", "T"]
    (axis, _) = code_usage("y", np.eye(2), ["a", "b"], "label").axes
    assert [text.get_text() for text in axis.get_xticklabels()] == ["0", "1"]
