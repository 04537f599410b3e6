"""`python -m framer_jax`: the command line where its script is not on the path."""

from framer_jax.cli import run_process

if __name__ == "__main__":
    run_process()
