"""Report of a trained model as one HTML file."""

from vaekit.analysis.report.html_report import report

__all__ = ["report"]
