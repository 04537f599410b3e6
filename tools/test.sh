#!/usr/bin/env bash
# The whole test suite in its own environment; arguments go to pytest (-m slow: the slow checks).
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/environment.sh
exec python -m pytest "$@"
