#!/usr/bin/env bash
# From a fresh clone to super-resolved photographs and a FRAMER training run: 3 to 8 minutes on 2 cores.
set -euo pipefail
cd "$(dirname "$0")/.."
started=$SECONDS
. tools/environment.sh
out=quickstart
echo "== installed after $((SECONDS - started)) s; upscaling held-out photographs"
python tools/quickstart.py prepare "$out"
framer-jax upscale "$out/lr" "$out/standard" --skip-existing
echo "== $((SECONDS - started)) s: training, twice from the same weights and seed: base, then base + FRAMER"
framer-jax train --config quickstart --init starter --workdir "$out/base"
framer-jax train --config quickstart_framer --init starter --workdir "$out/framer"
echo "== $((SECONDS - started)) s: measuring"
python tools/quickstart.py report "$out"
echo "== done after $((SECONDS - started)) s"
