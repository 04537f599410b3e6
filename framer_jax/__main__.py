"""`python -m framer_jax`: the command line where its script is not on the path."""

import sys

from framer_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
