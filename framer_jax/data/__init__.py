"""Photographs to training batches: sources, the built-in photographs, Grain pipelines, validation pairs."""
