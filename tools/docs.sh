#!/usr/bin/env bash
# Build the documentation into site/; any warning is an error. Nothing is downloaded. Arguments go to mkdocs build.
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/environment.sh
export NO_MKDOCS_2_WARNING=1
exec mkdocs build --strict --quiet "$@"
