"""Denoisers and students: one flax module family a file; `__call__(x, t, condition) -> (prediction, taps)`."""
