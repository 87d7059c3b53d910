#!/usr/bin/env bash
# The quickstart over seeds, PPO against ESPO and random stopping; writes experiments/results/quickstart_seeds.json, prints the table.
# Usage: scripts/quickstart_seeds.sh   SEEDS="0 1 2" by default. A second run goes on where the first one stopped.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh requirements.txt
root=${WORKDIR:-runs/quickstart_seeds}
seeds=${SEEDS:-0 1 2}
for seed in $seeds; do
  .venv/bin/python -m espo_jax.train --config=experiments/quickstart.py --workdir="$root/seed_$seed" \
    --config.seed="$seed" --config.eval.problems=2048 "--config.baselines=('never', 'random')"
done
PYTHONPATH=. .venv/bin/python scripts/summarise_seeds.py --output=experiments/results/quickstart_seeds $(for s in $seeds; do echo "$root/seed_$s"; done)
