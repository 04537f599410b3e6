"""Real-world degradations (blur, resize, noise, JPEG): parameters are drawn in NumPy and applied under jit."""
