#!/usr/bin/env bash
# Lint, format and types: what .ci/run checks first.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/environment.sh
ruff check .
ruff format --check .
mypy
