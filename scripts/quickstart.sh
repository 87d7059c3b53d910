#!/usr/bin/env bash
# From nothing to a trained reasoner: environment, PPO against ESPO from one warm start, the table and the plots.
# Usage: scripts/quickstart.sh [--config.seed=1 ...]   A second run goes on where the first one stopped.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh requirements.txt
workdir=${WORKDIR:-runs/quickstart}
.venv/bin/python -m espo_jax.train --config=experiments/quickstart.py --workdir="$workdir" "$@"
