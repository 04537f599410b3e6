# Sourced by the other scripts: creates a virtual environment in .venv with all development requirements.
# PYTHON selects the interpreter (3.11 or newer), VENV the folder.
PYTHON="${PYTHON:-python3}"
VENV="${VENV:-.venv}"
export PIP_DISABLE_PIP_VERSION_CHECK=1
if [ ! -x "$VENV/bin/python" ]; then
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "framer_jax needs Python 3.11 or newer: set PYTHON to one" >&2
        exit 1
    }
    "$PYTHON" -m venv "$VENV"
fi
# Installing again only when the requirements changed keeps the second run instant.
if ! cmp -s setup.py "$VENV/setup.py.installed"; then
    "$VENV/bin/python" -m pip install --quiet --editable ".[dev]"
    cp setup.py "$VENV/setup.py.installed"
fi
PATH="$(cd "$VENV/bin" && pwd):$PATH"
