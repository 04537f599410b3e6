"""The comparisons of tools/check_parity.py: reading fixtures, drawing weights, and one function per family."""
