#!/usr/bin/env bash
# Compares the rollout with a masked scan, transformers and tunix; writes experiments/benchmarks/rollout.json and rollout.md.
# Usage: scripts/bench_rollout.sh [--repeats=3 ...]   It takes over an hour on 2 cores, on which nothing else should run.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh requirements.txt requirements-test.txt
own=$venv/bin/python

# peer_environment NAME: makes .venv-NAME from scripts/bench/requirements_NAME.txt.
peer_environment() {
  local venv=.venv-$1 requirements=scripts/bench/requirements_$1.txt torch
  cmp -s "$requirements" "$venv/requirements.installed" && return
  echo "making $venv"
  "$own" -m venv --clear "$venv"
  torch=$(grep '^torch==' "$requirements" || true)
  if [ -n "$torch" ]; then  # the build without CUDA, if its index can be reached
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
      --extra-index-url "${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}" "$torch"
  fi
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$requirements"
  cp "$requirements" "$venv/requirements.installed"
}

[ -n "${TRANSFORMERS_PYTHON:-}" ] || peer_environment transformers
[ -n "${TUNIX_PYTHON:-}" ] || peer_environment tunix
PYTHONPATH=. "$own" scripts/bench_rollout.py "$@"
