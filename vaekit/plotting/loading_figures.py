"""Figure of the top genes of each unit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from vaekit.plotting.figure_files import new_figure
from vaekit.plotting.names import shorten_names
from vaekit.plotting.table_argument import check_table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

MAX_UNITS, NUM_COLUMNS = 40, 5
PANEL_WIDTH, BAR, FRAME = 2.3, 0.15, 0.55  # inches of a panel, of a bar, and of title and axis
COLORS = {"+": "tab:red", "-": "tab:blue"}
FONT_SIZE, LETTERS = 7, 14


def plot_loadings(table: pd.DataFrame, n_genes: int = 5, title: str = "") -> Figure:
    """Plot the genes that rise most in each direction of each unit, as bars.

    Bars of the direction "+" point to the right. Those of "-" point to the left: these genes rise if the unit falls.
    The units are in descending order of their strength.

    Parameters
    ----------
    table : pandas.DataFrame
        Result of :func:`vaekit.analysis.loadings`.
    n_genes : int
        Number of genes per direction.
    title : str
        Title of the figure.

    Examples
    --------
    >>> import pandas as pd, vaekit
    >>> names = {"latent": "z", "unit": "0", "direction": ["+", "-"], "strength": 0.5, "gene": ["CD3E", "LYZ"]}
    >>> figure = vaekit.analysis.plot_loadings(pd.DataFrame({**names, "log2_fold_change": [2.0, 1.5]}))
    >>> figure.axes[0].get_title()
    'z 0 (strength 0.50)'
    """
    check_table(table, ["latent", "unit", "direction", "strength", "gene", "log2_fold_change"], "loadings")
    units = list(table.groupby(["latent", "unit"], sort=False))
    shown = units[:MAX_UNITS]
    num_bars = max(sum(len(part.head(n_genes)) for _, part in unit.groupby("direction")) for _, unit in shown)
    columns = min(NUM_COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    figure = new_figure(PANEL_WIDTH * max(columns, 2), rows * (FRAME + BAR * num_bars) + 0.4)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    for axis, ((latent, unit), part) in zip(axes, shown, strict=False):
        axis.set_title(f"{latent} {unit} (strength {part['strength'].iloc[0]:.2f})", fontsize=FONT_SIZE + 1)
        _draw_unit(axis, part, n_genes, num_bars)
    for axis in axes[len(shown) :]:
        axis.remove()
    hidden = f" ({len(shown)} of {len(units)} units)" if len(shown) < len(units) else ""
    figure.suptitle((title or "genes that rise most with each unit (+) and against it (-)") + hidden, fontsize=10)
    figure.supxlabel("log2 fold change at the upper (right) and lower (left) end of the unit", fontsize=FONT_SIZE + 1)
    return figure


def _draw_unit(axis: Any, part: pd.DataFrame, n_genes: int, num_bars: int) -> None:
    """Draw the bars of a unit, the direction "+" above "-"."""
    tops = [(direction, rows.head(n_genes)) for direction, rows in part.groupby("direction", sort=False)]
    genes = [gene for _, rows in tops for gene in rows["gene"]]
    signs = {"+": 1.0, "-": -1.0}
    widths = np.concatenate([signs[direction] * rows["log2_fold_change"].to_numpy() for direction, rows in tops])
    colors = [COLORS[direction] for direction, rows in tops for _ in range(len(rows))]
    axis.barh(range(len(genes)), widths, color=colors, height=0.75)
    axis.axvline(0, color="gray", linewidth=0.6)
    axis.set_yticks(range(len(genes)), [name for gene in genes for name in shorten_names([gene], LETTERS)])
    axis.set_ylim(num_bars - 0.5, -0.5)
    axis.tick_params(labelsize=FONT_SIZE, length=2)
    axis.xaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")  # these genes rise at their end
