"""Scores, benchmark tables and the statistics behind them."""
