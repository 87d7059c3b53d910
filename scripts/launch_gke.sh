#!/usr/bin/env bash
# Starts one training job on a GKE cluster with TPU slices, as a JobSet with one pod per host. JAX finds the hosts by variables
# that GKE sets.
#
#   scripts/launch_gke.sh [--dry-run] --config=experiments/gsm8k.py --workdir=/runs/gsm8k --config.mesh.fsdp=-1 [...]
#
# --dry-run, in any position, prints the manifest instead of applying it. If a pod fails, the JobSet restarts all pods, up to
# RESTARTS times, and the run resumes. Environment variables are the settings:
#
#   IMAGE        an image with this repository at /espo_jax, its requirements and jax[tpu]; there is no default
#   CLAIM        a ReadWriteMany volume claim, which is mounted at /runs; there is no default
#   NAME=espo  ACCELERATOR=tpu-v5-lite-podslice  TOPOLOGY=4x4  HOSTS=4  CHIPS=4 (per host)  SLICES=1  RESTARTS=10
#
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

# quoted VALUE...: prints a YAML list of strings with JSON's quoting, which YAML accepts.
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
