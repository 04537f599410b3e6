"""What tools/benchmark.py measures, a module per kind of work."""
