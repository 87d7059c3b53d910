#!/usr/bin/env bash
# One training job on SLURM: a process a GPU, which jax finds from what srun sets. A job that is cut off by its time limit is
# queued again and goes on; the flags again go on with one that failed.
#
#   scripts/launch_slurm.sh [--dry-run] --config=experiments/gsm8k.py --workdir=runs/gsm8k --config.mesh.data=-1 [...]
#
# --dry-run, wherever it stands, prints the batch script instead of submitting it. Settings are variables: NODES=1, GPUS=8 (a
# node), HOURS=24, and SBATCH_PARTITION, SBATCH_ACCOUNT and the like, which sbatch reads itself. The workdir lies on a file
# system of all nodes; .venv is that of scripts/environment.sh, with jax[cuda13] installed.
set -euo pipefail
cd "$(dirname "$0")/.."

source scripts/arguments.sh
if [ $# -eq 0 ]; then
  echo 'error: no flags for espo_jax.train; fix: --config=experiments/quickstart.py --workdir=runs/quickstart' >&2
  exit 2
fi
check_flags "$@"
flags=$(printf '%q ' "$@")

send sbatch <<SCRIPT
#!/usr/bin/env bash
#SBATCH --job-name=espo
#SBATCH --nodes=${NODES:-1}
#SBATCH --ntasks-per-node=${GPUS:-8}
#SBATCH --gres=gpu:${GPUS:-8}
#SBATCH --time=${HOURS:-24}:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=espo-%j.log
#SBATCH --chdir=$(printf %q "$PWD")
# Five minutes before the limit every process is told to save and to end with status 143; the job then queues itself again.
#SBATCH --signal=TERM@300
srun --kill-on-bad-exit=1 .venv/bin/python -m espo_jax.train $flags
status=\$?
[ \$status -ne 143 ] || scontrol requeue "\$SLURM_JOB_ID"
exit \$status
SCRIPT
