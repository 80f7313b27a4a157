"""Formats of figures, for packages that do not import matplotlib."""

from typing import Literal, get_args

FigureFormat = Literal["png", "pdf", "svg", "none"]  # none: no figure
FIGURE_FORMATS = get_args(FigureFormat)
