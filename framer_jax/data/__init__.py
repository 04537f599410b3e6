"""From photographs to training batches: sources, built-in photographs, captions, Grain pipelines, validation pairs."""
