"""Shipped configurations: each file changes some knobs of a method's defaults (framer_jax.config.default)."""
