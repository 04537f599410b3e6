"""Metrics, benchmark tables with confidence intervals, layer analysis and inference cost."""
