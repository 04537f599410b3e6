#!/usr/bin/env bash
# The whole test suite in its own environment, in two processes, file by file; arguments go to pytest (-m slow: the slow
# checks; -n 0: in one process).
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/environment.sh
exec python -m pytest -n 2 --dist loadfile "$@"
