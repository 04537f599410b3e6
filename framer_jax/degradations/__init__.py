"""Real-world degradations: kernels, blur, resize, noise, JPEG; drawn in NumPy, applied under jit."""
