#!/usr/bin/env bash
# Run the whole test suite in two processes, distributed by file. Arguments go to pytest (-m slow: the slow checks;
# -n 0: a single process).
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/environment.sh
exec python -m pytest -n 2 --dist loadfile "$@"
