#!/usr/bin/env bash
# One door: sets up .venv if need be, then
#   ./run.sh            the headline: the papers' claims on the mini profile, as tables and figures
#   ./run.sh test       lint, types, the whole test suite
#   ./run.sh all        every table, every seed
#   ./run.sh ARGS...    gaugeport ARGS... (./run.sh --help)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

venv=.venv
stamp=$venv/.installed
wanted=$(cat pyproject.toml constraints.txt | sha256sum)
if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
  echo "setting up $venv (once)" >&2
  [ -x $venv/bin/python ] || python3 -m venv $venv
  # torch first and by itself: a range would fetch the CUDA build where an index offers both
  $venv/bin/pip install --quiet "$(grep '^torch==' constraints.txt)"
  $venv/bin/pip install --quiet -c constraints.txt -e '.[dev]'
  echo "$wanted" > "$stamp"
fi
export HF_HUB_DISABLE_TELEMETRY=1 TOKENIZERS_PARALLELISM=false

case "${1:-}" in
  "") exec $venv/bin/gaugeport tables --headline ;;
  all) shift; exec $venv/bin/gaugeport tables "$@" ;;
  test)
    shift
    $venv/bin/ruff check .
    $venv/bin/ruff format --check .
    $venv/bin/mypy
    # tiny models: a worker per core on one thread each is faster than one on all
    OMP_NUM_THREADS=1 exec $venv/bin/pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
    ;;
  *) exec $venv/bin/gaugeport "$@" ;;
esac
