#!/usr/bin/env bash
# Trains on a TPU pod slice on Google Cloud, with all workers at once. Every command can be repeated, and then does only what is
# not done yet.
#
#   scripts/launch_tpu_pod.sh create            # makes the slice
#   scripts/launch_tpu_pod.sh install           # copies this commit to every worker, makes its environment and mounts SHARE
#   scripts/launch_tpu_pod.sh start --config=experiments/gsm8k.py --workdir=gsm8k [--config.seed=1 ...]
#   scripts/launch_tpu_pod.sh tail              # shows the first worker's log, which has progress and metrics
#   scripts/launch_tpu_pod.sh stop              # saves and ends after the current step; start with the same flags resumes
#   scripts/launch_tpu_pod.sh delete            # deletes the slice
#
# --dry-run, in any position, prints the commands instead of running them. Environment variables are the settings:
#
#   ZONE         the zone of the slice; there is no default
#   SHARE        an NFS export such as Filestore's 10.0.0.2:/runs, mounted at ~/runs on every worker; there is no default
#   NAME=espo  TYPE=v5litepod-16  VERSION=v2-alpha-tpuv5-lite
#
# A workdir is relative to ~/runs, so that all processes read and write the same checkpoints.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
  sed -n '2,/^set /{/^#/s/^# \{0,1\}//p;}' "$0" >&2
  exit 2
}

source scripts/arguments.sh
[ $# -gt 0 ] || usage
command=$1
case $command in
  start)
    [ $# -gt 1 ] || usage
    check_flags "${@:2}"
    ;;
  create | install | tail | stop | delete) [ $# -eq 1 ] || refuse "$2" "$command takes nothing but --dry-run" 'leave it out' ;;
  *) refuse "$command" 'no command' 'create, install, start, tail, stop or delete in front' ;;
esac
shift
name=${NAME:-espo} type=${TYPE:-v5litepod-16} version=${VERSION:-v2-alpha-tpuv5-lite}
zone=${ZONE:?ZONE is not set; fix: ZONE=us-west4-a, where the quota is}

run() {
  if [ -n "$dry" ]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

tpu() { run gcloud compute tpus tpu-vm "$@" --zone="$zone"; }

exists() { gcloud compute tpus tpu-vm describe "$name" --zone="$zone" >/dev/null 2>&1; }

on_workers() { tpu ssh "$name" --worker="$1" --command="$2"; }

case $command in
  create)
    if [ -z "$dry" ] && exists; then
      echo "$name exists in $zone"
    else
      tpu create "$name" --accelerator-type="$type" --version="$version"
    fi
    ;;
  install)
    share=${SHARE:?SHARE is not set; fix: SHARE=10.0.0.2:/runs, an NFS export}
    run git archive --format=tar.gz --output=/tmp/espo_jax.tar.gz HEAD
    tpu scp /tmp/espo_jax.tar.gz "$name:/tmp/" --worker=all
    on_workers all "set -e
      sudo apt-get update -qq && sudo apt-get install -qq -y nfs-common python3.11 python3.11-venv
      mkdir -p ~/espo_jax ~/runs && tar xzf /tmp/espo_jax.tar.gz -C ~/espo_jax && cd ~/espo_jax
      mountpoint -q ~/runs || { sudo mount -t nfs $(printf %q "$share") ~/runs && sudo chmod 1777 ~/runs; }
      source scripts/environment.sh requirements.txt
      .venv/bin/python -m pip install --quiet 'jax[tpu]'"
    ;;
  start)
    flags=$(printf '%q ' "$@")
    on_workers all "cd ~/runs
      if [ -e ~/espo.pid ] && kill -0 \"\$(cat ~/espo.pid)\" 2>/dev/null; then echo \"\$(hostname): running\"; exit; fi
      export PYTHONPATH=\$HOME/espo_jax
      set -- $flags
      nohup ~/espo_jax/.venv/bin/python -m espo_jax.train \"\${@/#--config=/--config=\$HOME/espo_jax/}\" > ~/espo.log 2>&1 < /dev/null &
      echo \$! > ~/espo.pid"
    ;;
  tail) on_workers 0 'tail -n 50 -F ~/espo.log' ;;
  stop) on_workers all "[ ! -e ~/espo.pid ] || kill \"\$(cat ~/espo.pid)\" 2>/dev/null || true" ;;
  delete)
    if [ -n "$dry" ] || exists; then
      tpu delete "$name" --quiet
    else
      echo "there is no $name in $zone"
    fi
    ;;
esac
