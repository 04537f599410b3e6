#!/usr/bin/env bash
# Train the starter model as it ships: tools/train_starter.sh PHOTOS RUN. Two hours on 2 CPU cores; stopped, it resumes.
# PHOTOS is a folder of photographs, RUN a folder for the two runs; the result is RUN/finish/weights.safetensors.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -eq 2 ] || { echo "usage: tools/train_starter.sh PHOTOS RUN" >&2; exit 2; }
. tools/environment.sh
framer-jax train --config configs/starter.py --workdir "$2/first" --set "data.train=$1"
framer-jax train --config configs/starter_finish.py --init "$2/first" --workdir "$2/finish" --set "data.train=$1"
