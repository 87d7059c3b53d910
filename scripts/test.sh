#!/usr/bin/env bash
# Checks format, lint and types, and runs the tests. Usage: scripts/test.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."
unset PYTHONDONTWRITEBYTECODE  # the tests start many processes, each of which would compile all modules anew
source scripts/environment.sh requirements.txt requirements-test.txt requirements-test-nodeps.txt requirements-test-tpu.txt \
  requirements-test-transformers4.txt requirements-test-verifiers.txt requirements-docs.txt
"$venv"/bin/ruff format --check .
"$venv"/bin/ruff check .
"$venv"/bin/mypy
"$venv"/bin/python -m pytest -n 2 --dist worksteal "$@"
