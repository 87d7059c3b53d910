#!/usr/bin/env bash
# Starts one training job on SLURM, with one process per GPU. JAX finds the processes by the variables that srun sets. A job that
# reaches its time limit is queued again and resumes. After a failure, the same command resumes the run.
#
#   scripts/launch_slurm.sh [--dry-run] --config=experiments/gsm8k.py --workdir=runs/gsm8k --config.mesh.data=-1 [...]
#
# --dry-run, in any position, prints the batch script instead of submitting it. Environment variables are the settings: NODES=1,
# GPUS=8 (per node), HOURS=24, and variables that sbatch reads, such as SBATCH_PARTITION and SBATCH_ACCOUNT. The workdir must be
# on a file system that all nodes share. scripts/environment.sh must have made .venv, with jax[cuda13] installed in addition.
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
# Five minutes before the limit SLURM tells every process to save and to end with status 143. The job then queues itself again.
#SBATCH --signal=TERM@300
srun --kill-on-bad-exit=1 .venv/bin/python -m espo_jax.train $flags
status=\$?
[ \$status -ne 143 ] || scontrol requeue "\$SLURM_JOB_ID"
exit \$status
SCRIPT
