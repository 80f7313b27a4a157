"""Figures: functions from arrays and tables to matplotlib figures."""

from vaekit.plotting.figure_files import save_figure
from vaekit.plotting.gradient_figures import plot_gradient_report

__all__ = ["plot_gradient_report", "save_figure"]
