"""Files of figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vaekit._core.atomic import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Figure  # also for packages that do not import matplotlib


def save_figure(figure: Figure, path: Path) -> None:
    """Save a figure with all of its text as a PNG file, which is complete or not changed.

    Examples
    --------
    >>> from pathlib import Path
    >>> import vaekit
    >>> table = vaekit.analysis.differential_expression(adata, model, "cluster", "cluster0", "cluster1")
    >>> vaekit.plotting.save_figure(vaekit.analysis.plot_volcano(table), Path("volcano.png"))
    """
    with atomic_write(path) as temporary:
        # "tight", because scanpy draws names outside of the figure
        figure.savefig(temporary, dpi=130, format="png", bbox_inches="tight")
