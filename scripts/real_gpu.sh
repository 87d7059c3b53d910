#!/usr/bin/env bash
# Trains LoRA adapters of a real model on GSM8K, PPO against ESPO from one start, on one GPU.
# Usage: scripts/real_gpu.sh MODEL TRAIN TEST [--config.learner.updates=20 ...]
#
#   hf download Qwen/Qwen2.5-0.5B-Instruct --local-dir models/qwen2.5-0.5b
#   scripts/real_gpu.sh models/qwen2.5-0.5b openai/gsm8k openai/gsm8k
#
# The batches are meant for half a billion parameters and about ten minutes of an H100. That was not measured. The environment
# needs jax[cuda13]. The same command resumes a run that was interrupted.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ $# -lt 3 ]; then
  echo 'error: MODEL, TRAIN and TEST are needed; fix: scripts/real_gpu.sh models/mine train.jsonl test.jsonl' >&2
  exit 2
fi
model=$1 train=$2 test=$3
shift 3
exec "${VENV:-.venv}"/bin/python -m espo_jax.train --config=experiments/gsm8k.py:adapters \
  --workdir="${WORKDIR:-runs/real_gpu}" --config.model.path="$model" --config.data.path="$train" --config.data.eval_path="$test" \
  --config.rollout.prompts=32 --config.rollout.horizon=320 --config.rollout.slots=256 --config.learner.updates=15 \
  --config.learner.minibatches=4 --config.learner.micro_batches=1 --config.eval.batch=256 --config.checkpoint.every=5 "$@"
