"""The ablations of the papers, for `framer-jax ablate NAME:TABLE`: see docs/ablations.md."""
