# The other scripts source this file in the repository's root. It makes .venv, or $VENV, and installs the packages of requirements
# files, if that has not been done yet. It sets $venv to the folder.
# Usage: source scripts/environment.sh requirements.txt [more.txt ...]
#
#   *-nodeps.txt                     is installed without dependencies
#   *-tpu.txt, *-transformers4.txt, *-verifiers.txt
#                                    is installed into .venv/tpu, .venv/transformers4 or .venv/verifiers

find_python() {
  local candidate
  for candidate in "${PYTHON:-}" python3.12 python3.11 python3.13 python3 python; do
    if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo 'error: no Python >= 3.11 found; install one, or name it: PYTHON=/path/to/python scripts/quickstart.sh' >&2
  return 1
}

venv=${VENV:-.venv}
if [ ! -x "$venv"/bin/python ]; then
  python=$(find_python) || exit 1
  echo "making $venv with $("$python" --version)"
  "$python" -m venv "$venv" || { rm -rf "$venv"; echo "error: could not make $venv (on Debian: apt-get install python3-venv)" >&2; exit 1; }
fi
for requirements in "$@"; do
  stamp="$venv/$(basename "$requirements").installed"
  if ! cmp -s "$requirements" "$stamp"; then
    echo "installing $requirements"
    options=(--quiet --disable-pip-version-check --no-compile)  # most modules are never imported
    [[ $requirements != *-nodeps.txt ]] || options+=(--no-deps)
    [[ ! $requirements =~ -(tpu|transformers4|verifiers)\.txt$ ]] || options+=(--no-deps --upgrade --target "$venv/${BASH_REMATCH[1]}")
    "$venv"/bin/python -m pip install "${options[@]}" -r "$requirements"
    cp "$requirements" "$stamp"
  fi
done
