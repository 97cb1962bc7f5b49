#!/usr/bin/env bash
# Run the tests, after setting up the environment if necessary. Without arguments these are all but the slow
# ones: about a quarter of an hour on two cores. Arguments go to pytest:
#
#   bash tests/run_tests.sh                      # the suite, in two processes
#   bash tests/run_tests.sh tests/data           # one folder of it
#   bash tests/run_tests.sh -m slow              # convergence and other long tests
set -euo pipefail
start_scripts=$(dirname -- "$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")")/start_scripts
# shellcheck source-path=SCRIPTDIR/../start_scripts
source "$start_scripts/_common.sh"
# shellcheck source-path=SCRIPTDIR/../start_scripts
source "$start_scripts/_install.sh"

ensure_environment
ensure_test_tools
if (($# == 0)) && "$PYTHON" -c "import xdist" 2>/dev/null; then # not every PYTHON of a user has it
  export OMP_WAIT_POLICY=passive # an idle thread leaves its core to the other process
  # In the order of their names the last files are short ones: no process is left alone with a long one.
  set -- --numprocesses=2 --dist=loadfile --no-loadscope-reorder --durations=10
fi
unset PYTHONDONTWRITEBYTECODE # images for containers set it: every process would compile all modules
paths=("$PROJECT/tests")
for argument in "$@"; do
  [[ ! -e ${argument%%::*} ]] || paths=()
done
become "$PYTHON" -m pytest --rootdir "$PROJECT" --config-file "$PROJECT/pyproject.toml" "${paths[@]}" "$@"
