"""Inference with a trained recipe: read images, upscale them tile by tile, fix their colors, and write them."""
