#!/usr/bin/env bash
# Set the environment up if need be and run the tests: all but the slow ones, on any machine with two
# cores in under 10 minutes. Arguments go to pytest:
#
#   bash tests/run_tests.sh                      # the suite, in two processes
#   bash tests/run_tests.sh tests/data           # a part of it
#   bash tests/run_tests.sh -m slow              # convergence and other long ones
set -euo pipefail
start_scripts=$(dirname -- "$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")")/start_scripts
# shellcheck source-path=SCRIPTDIR/../start_scripts
source "$start_scripts/_common.sh"
# shellcheck source-path=SCRIPTDIR/../start_scripts
source "$start_scripts/_install.sh"

ensure_environment
if ! cmp -s -- "$PROJECT/tests/requirements.txt" "$PROJECT/.venv/tests-requirements.txt" && uses_venv; then
  install_requirements "$(find_python)" "$PYTHON" "$PROJECT/tests/requirements.txt"
  cp -- "$PROJECT/tests/requirements.txt" "$PROJECT/.venv/tests-requirements.txt"
fi
if (($# == 0)) && "$PYTHON" -c "import xdist" 2>/dev/null; then # else it is a Python of the user's
  export OMP_WAIT_POLICY=passive # threads of one process leave their core to the other
  set -- --numprocesses=2 --dist=loadfile --durations=10
fi
paths=("$PROJECT/tests")
for argument in "$@"; do
  [[ ! -e ${argument%%::*} ]] || paths=()
done
run_module pytest --rootdir "$PROJECT" --config-file "$PROJECT/pyproject.toml" "${paths[@]}" "$@"
