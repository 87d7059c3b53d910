#!/usr/bin/env bash
# One training job on a GKE cluster with TPU slices, as a JobSet: a pod a host, which jax finds from what GKE sets.
#
#   scripts/launch_gke.sh [--dry-run] --config=experiments/gsm8k.py --workdir=/runs/gsm8k --config.mesh.fsdp=-1 [...]
#
# --dry-run, wherever it stands, prints the manifest instead of applying it. When a pod ends badly the JobSet starts all of them
# again, up to RESTARTS times, and the run goes on. Settings are variables: IMAGE, with this repository at /espo_jax and its
# requirements and jax[tpu] installed, and CLAIM, a ReadWriteMany volume claim that becomes /runs, have no default; NAME=espo,
# ACCELERATOR=tpu-v5-lite-podslice, TOPOLOGY=4x4, HOSTS=4, CHIPS=4 (a host), SLICES=1, RESTARTS=10.
# On a cluster made by XPK: xpk workload create --workload=espo --tpu-type=v5litepod-16 --docker-image=IMAGE --command='...'.
set -euo pipefail

# shellcheck source=scripts/arguments.sh
source "$(dirname "$0")/arguments.sh"
if [ $# -eq 0 ]; then
  echo 'error: no flags for espo_jax.train; fix: --config=experiments/gsm8k.py --workdir=/runs/gsm8k' >&2
  exit 2
fi
check_flags "$@"
: "${IMAGE:?IMAGE is not set; fix: IMAGE=region-docker.pkg.dev/project/repository/espo_jax}"
: "${CLAIM:?CLAIM is not set; fix: CLAIM=NAME of a ReadWriteMany PersistentVolumeClaim}"

# A YAML list of strings: JSON's quoting is YAML's.
quoted() {
  local out='' value
  for value in "$@"; do
    value=${value//\\/\\\\}
    out+=", \"${value//\"/\\\"}\""
  done
  echo "[${out#, }]"
}

send kubectl apply -f - <<MANIFEST
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: ${NAME:-espo}
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  failurePolicy:
    maxRestarts: ${RESTARTS:-10}
  replicatedJobs:
  - name: slice
    replicas: ${SLICES:-1}
    template:
      spec:
        parallelism: ${HOSTS:-4}
        completions: ${HOSTS:-4}
        completionMode: Indexed
        backoffLimit: 0
        template:
          spec:
            restartPolicy: Never
            hostNetwork: true
            dnsPolicy: ClusterFirstWithHostNet
            terminationGracePeriodSeconds: 300
            nodeSelector:
              cloud.google.com/gke-tpu-accelerator: ${ACCELERATOR:-tpu-v5-lite-podslice}
              cloud.google.com/gke-tpu-topology: ${TOPOLOGY:-4x4}
            containers:
            - name: train
              image: $IMAGE
              workingDir: /espo_jax
              command: ["python", "-m", "espo_jax.train"]
              args: $(quoted "$@")
              ports:
              - containerPort: 8471
              - containerPort: 8482
              resources:
                requests:
                  google.com/tpu: ${CHIPS:-4}
                limits:
                  google.com/tpu: ${CHIPS:-4}
              volumeMounts:
              - name: runs
                mountPath: /runs
            volumes:
            - name: runs
              persistentVolumeClaim:
                claimName: $CLAIM
MANIFEST
