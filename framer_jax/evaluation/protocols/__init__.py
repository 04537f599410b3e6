"""Protocols and image sets as TOML files; see framer_jax.evaluation.protocol."""
