"""Reliability diagram: fraction of right labels against their probability."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vaekit.plotting.names import as_text
from vaekit.plotting.table_argument import check_table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

NUM_ERRORS = 1.96  # standard errors of a bar: 95 % of a normal


def plot_reliability(table: pd.DataFrame, title: str = "") -> Figure:
    r"""Plot the fraction of right labels against their probability, and the number of cells below.

    Calibrated probabilities lie on the diagonal. Bars are 95 % intervals of Wilson for the fraction :math:`a` of n
    cells: :math:`\big(a + \tfrac{z^2}{2n} \pm z \sqrt{a (1 - a) / n + z^2 / 4n^2}\big) / (1 + z^2 / n)` with
    z = 1.96.

    Parameters
    ----------
    table : pandas.DataFrame
        ``adata.uns[...]["reliability"]`` of :func:`vaekit.analysis.predict_labels`.
    title : str
        Title of the figure; "" means the expected calibration error.

    Examples
    --------
    >>> import pandas as pd, vaekit
    >>> table = pd.DataFrame({"probability": [0.55, 0.95], "accuracy": [0.5, 1.0], "n": [4, 30]})
    >>> vaekit.analysis.plot_reliability(table).axes[0].get_xlabel()
    'probability of the label'
    """
    from matplotlib.figure import Figure

    check_table(table, ["probability", "accuracy", "n"], "predict_labels")
    figure = Figure(figsize=(4.2, 4.6), layout="constrained")
    axis, sizes = figure.subplots(2, sharex=True, height_ratios=(4, 1))
    x, y, n = (table[column].to_numpy(float) for column in ("probability", "accuracy", "n"))
    axis.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle=":")
    shrink, center = 1 + NUM_ERRORS**2 / n, y + NUM_ERRORS**2 / (2 * n)
    half = NUM_ERRORS * np.sqrt(y * (1 - y) / n + NUM_ERRORS**2 / (4 * n**2))
    axis.vlines(x, (center - half) / shrink, (center + half) / shrink, color="tab:blue", linewidth=1)
    axis.plot(x, y, "o-", color="tab:blue", markersize=4, linewidth=1)
    axis.set(xlim=(0, 1), ylim=(-0.02, 1.02), ylabel="fraction of right labels")
    sizes.bar(x, n, width=0.04, color="0.7")
    sizes.set(xlabel="probability of the label", ylabel="cells")
    axis.set_xlabel("probability of the label")
    axis.xaxis.label.set_visible(False)
    error = float((np.abs(x - y) * n).sum() / max(1.0, n.sum()))
    axis.set_title(as_text(title or f"{n.sum():.0f} held-out labeled cells: calibration error {error:.3f}"), fontsize=9)
    return figure
