# Sourced by the other scripts: creates a virtual environment with all requirements of an extra of setup.py.
# PYTHON selects the interpreter (3.11 or newer), VENV the folder, EXTRA the extra, FIRST a package to install before.
PYTHON="${PYTHON:-python3}"
VENV="${VENV:-.venv}"
EXTRA="${EXTRA:-dev}"
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
    if [ -n "${FIRST:-}" ]; then
        "$VENV/bin/python" -m pip install --quiet "$FIRST"
    fi
    "$VENV/bin/python" -m pip install --quiet --editable ".[$EXTRA]"
    cp setup.py "$VENV/setup.py.installed"
fi
PATH="$(cd "$VENV/bin" && pwd):$PATH"
