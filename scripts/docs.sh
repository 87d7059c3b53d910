#!/usr/bin/env bash
# Builds the documentation as a site in docs/_build/html, which begins at its index.html. A warning is an error.
# Usage: scripts/docs.sh [sphinx-build arguments]
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh requirements.txt requirements-docs.txt
JAX_PLATFORMS=cpu exec "$venv"/bin/python -m sphinx --fail-on-warning --keep-going --quiet -c docs "$@" . docs/_build/html
