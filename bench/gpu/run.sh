#!/usr/bin/env bash
# Checks and measures moe-proxy on a machine with a GPU, without a network: see docs/performance.md.
#
#   bench/gpu/run.sh --steps build,model,moves,speed [--out FOLDER] [--dry-run] [--help]
#
# It takes along what `python -m bench.gpu.pack` put into build/gpu-pack (or $PACK): llama.cpp's
# source, and wheels where this machine's Python lacks packages. Exit status 75: the time limit came
# first, and the same command goes on from there.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
pack=${PACK:-$root/build/gpu-pack}
python=${PYTHON:-python3}
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
if compgen -G "$pack/wheels/*.whl" >/dev/null; then
  site=$pack/site
  if [ ! -e "$site/.complete" ]; then
    rm -rf "$site"
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$pack"/wheels/*.whl
    touch "$site/.complete"
  fi
  export PYTHONPATH=$PYTHONPATH:$site PATH=$PATH:$site/bin
fi
cd "$root"
exec "$python" -m bench.gpu.main --pack "$pack" "$@"
