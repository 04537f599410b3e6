"""HF-Diff's feature extractor and its pre-training; it upscales nothing, so it is no method of the table."""
