"""The page of `framer-jax compare --html`: images of several methods in one file that loads nothing."""
