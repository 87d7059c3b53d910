#!/usr/bin/env bash
# Runs the tests once for each supported Python, with different instruction sets and thread counts.
# Usage: scripts/test_everywhere.sh [pytest arguments]   It prints one line per run, and its status is 1 if one failed.
#
# PYTHON3_11=/path/to/python3.11 names an interpreter that is not on the PATH. PYTHON3_12 and PYTHON3_13 do the same.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

# The Python, the newest instruction set that the compiler may use (- for the machine's), and the number of threads.
ways=('3.11 - 2' '3.12 SSE4_2 1' '3.13 AVX2 4')

closing=()
failed=0
for way in "${ways[@]}"; do
  read -r version isa threads <<< "$way"
  named=PYTHON${version/./_}
  export PYTHON=${!named:-python$version} VENV=.venv-$version NPROC=$threads
  if [ "$isa" = - ]; then unset XLA_FLAGS; else export XLA_FLAGS=--xla_cpu_max_isa=$isa; fi
  name="Python $version, ${isa/#-/all instructions}, $threads threads"
  echo "=== $name"
  log=$(mktemp)
  # The cache folder is separate, because programs compiled for other instructions or threads must not be used.
  if ! scripts/test.sh -o "cache_dir=.pytest_cache/$version-$isa-$threads" "$@" 2>&1 | tee "$log"; then failed=1; fi
  closing+=("$name: $(grep -E '(passed|failed|error)' "$log" | tail -n 1)")
  rm "$log"
done
printf '%s\n' "${closing[@]}"
exit $failed
