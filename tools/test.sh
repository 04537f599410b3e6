#!/usr/bin/env bash
# Run the whole test suite in two processes, distributed by file. Arguments go to pytest (-m slow: the slow checks;
# -n 0: a single process). With --originals first: tests/originals instead, against diffusers, transformers and peft, in
# an environment of its own (.venv-originals); TORCH is the PyTorch to install there.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "${1:-}" = --originals ]; then
    shift
    VENV="${VENV:-.venv-originals}"
    EXTRA=originals
    FIRST="${TORCH:-torch==2.13.0}"
    trap 'echo "the originals were NOT checked: $FIRST, diffusers, transformers or peft could not be installed" >&2' ERR
    . tools/environment.sh
    trap - ERR
    set -- tests/originals "$@"
else
    . tools/environment.sh
fi
exec python -m pytest -n 2 --dist loadfile "$@"
