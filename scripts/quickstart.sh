#!/usr/bin/env bash
# Makes the environment, trains PPO and ESPO from one warm start, and writes a table and plots.
# Usage: scripts/quickstart.sh [--config.seed=1 ...]   The same command resumes a run that was interrupted.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh requirements.txt
workdir=${WORKDIR:-runs/quickstart}
"$venv"/bin/python -m espo_jax.train --config=experiments/quickstart.py --workdir="$workdir" "$@"
