"""Figures: functions from arrays and tables to matplotlib figures."""

from vaekit.plotting.embedding_figures import plot_embedding, plot_latents
from vaekit.plotting.figure_files import encode_figure, save_figure
from vaekit.plotting.gradient_figures import plot_gradient_report
from vaekit.plotting.topic_figures import plot_topics

__all__ = ["encode_figure", "plot_embedding", "plot_gradient_report", "plot_latents", "plot_topics", "save_figure"]
