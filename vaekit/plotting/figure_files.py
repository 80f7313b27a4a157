"""Files of figures."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vaekit._core.atomic import atomic_write
from vaekit.exceptions import DataError

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Figure  # also for packages that do not import matplotlib

# "tight", because scanpy draws names outside of the figure. Text stays text in PDF and SVG, and does not name the time.
_STYLE: Any = {"svg.fonttype": "none", "pdf.fonttype": 42, "svg.hashsalt": "vaekit"}
_DPI = {"png": 130, "pdf": 300, "svg": 200}  # in PDF and SVG, of points that are drawn as pixels
_METADATA: dict[str, dict[str, Any]] = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}


def save_figure(figure: Figure, path: Path) -> None:
    """Save a figure with all of its text as a PNG, PDF or SVG file, which is complete or not changed.

    Raises
    ------
    DataError
        If the path has another ending.

    Examples
    --------
    >>> from pathlib import Path
    >>> import vaekit
    >>> table = vaekit.analysis.differential_expression(adata, model, "cluster", "cluster0", "cluster1")
    >>> vaekit.plotting.save_figure(vaekit.analysis.plot_volcano(table), Path("volcano.pdf"))
    """
    content = encode_figure(figure, Path(path).suffix.lower().removeprefix("."))  # type: ignore[arg-type]
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def encode_figure(figure: Figure, form: Literal["png", "pdf", "svg"] = "png", *, outlined: bool = False) -> bytes:
    """Return the content of a PNG, PDF or SVG file of a figure; the same figure gives the same content.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        The figure.
    form : str
        Format.
    outlined : bool
        Whether the text of an SVG consists of outlines, for readers without the font.

    Raises
    ------
    DataError
        If the format is another one.

    Examples
    --------
    >>> import vaekit
    >>> table = vaekit.analysis.differential_expression(adata, model, "cluster", "cluster0", "cluster1")
    >>> vaekit.plotting.encode_figure(vaekit.analysis.plot_volcano(table), "svg")[:5]
    b'<?xml'
    """
    import matplotlib as mpl

    if form not in _DPI:
        raise DataError(f"encode_figure: form={form!r} must be 'png', 'pdf' or 'svg'.")
    buffer = io.BytesIO()
    with mpl.rc_context(_STYLE | ({"svg.fonttype": "path"} if outlined else {})):
        figure.savefig(buffer, format=form, dpi=_DPI[form], bbox_inches="tight", metadata=_METADATA[form])
    return buffer.getvalue()


def new_figure(width: float, height: float) -> Figure:
    """Return a figure without a window, whose layout follows its texts; the size is in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
