"""The page of `framer-jax compare --html`: images of several methods side by side, in one file without network access."""
