"""Figures: functions from arrays and tables to matplotlib figures."""
