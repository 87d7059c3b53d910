#!/usr/bin/env bash
# Builds the documentation as a site in docs/_build/html, or $SITE, which begins at its index.html. A warning is an error.
# Usage: scripts/docs.sh [sphinx-build arguments]
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh requirements.txt requirements-docs.txt
# The environment is fresh, because Sphinx does not see that a method or a record of results has changed.
JAX_PLATFORMS=cpu exec "$venv"/bin/python -m sphinx --fresh-env --fail-on-warning --keep-going --quiet -c docs "$@" . \
  "${SITE:-docs/_build/html}"
