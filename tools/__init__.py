"""Tools that are run from a checkout and not installed."""
