"""Figures: functions from arrays and tables to matplotlib figures."""

from vaekit.plotting.embedding_figures import plot_embedding, plot_latents, plot_topics
from vaekit.plotting.figure_files import save_figure
from vaekit.plotting.gradient_figures import plot_gradient_report

__all__ = ["plot_embedding", "plot_gradient_report", "plot_latents", "plot_topics", "save_figure"]
