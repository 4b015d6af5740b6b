#!/usr/bin/env bash
# Set up .venv if need be, then
#   ./run.sh            measure the main claims of both papers, on SmolLM2-135M and on models trained here
#   ./run.sh --offline-mini   the same of models trained here alone, as tables: for a machine without weights
#   ./run.sh test       check style, types and imports, and run the whole test suite
#   ./run.sh all        make every table, every seed
#   ./run.sh ARGS...    run gaugeport ARGS... (./run.sh --help)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

say() { echo "run.sh: $*" >&2; }

venv=.venv
stamp=$venv/.installed
wanted=$(cat pyproject.toml constraints.txt | sha256sum)
if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
  say "installing into $venv, about 3 minutes, once"
  [ -x $venv/bin/python ] || python3 -m venv $venv
  # torch first and by itself: a range would fetch the CUDA build where an index offers both
  if ! $venv/bin/pip install --quiet "$(grep '^torch==' constraints.txt)" ||
    ! $venv/bin/pip install --quiet -c constraints.txt -e '.[dev]'; then
    say "the installation failed; it needs a package index (PyPI, or the one that PIP_INDEX_URL names)"
    say "without one: set PIP_NO_INDEX=1 PIP_FIND_LINKS=FOLDER, with the wheels of constraints.txt in FOLDER"
    say "the same command goes on where it stopped"
    exit 1
  fi
  echo "$wanted" > "$stamp"
fi
export HF_HUB_DISABLE_TELEMETRY=1 TOKENIZERS_PARALLELISM=false

case "${1:-}" in
  "")
    say "the headline: about 8 minutes on two idle cores, seconds once stored"
    exec $venv/bin/gaugeport headline
    ;;
  --offline-mini)
    say "tables of both papers, one seed a claim: about 25 minutes on two cores, seconds once stored"
    exec $venv/bin/gaugeport tables --headline
    ;;
  all)
    shift
    say "every table and seed; about 5 hours on two cores; stop it at any time, the same command goes on"
    exec $venv/bin/gaugeport tables "$@"
    ;;
  test)
    shift
    say "style, types, imports and tests; several minutes on two cores"
    $venv/bin/ruff check .
    $venv/bin/ruff format --check .
    $venv/bin/mypy
    $venv/bin/lint-imports --no-logo --no-cache
    # models in tests are tiny: a worker per core on one thread each is faster than one worker on all cores
    OMP_NUM_THREADS=1 exec $venv/bin/pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
    ;;
  *) exec $venv/bin/gaugeport "$@" ;;
esac
