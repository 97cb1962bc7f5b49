#!/usr/bin/env bash
# Write tables like the published ones: memory, fps and AP or AR1000 as measured here, from run folders and
# benchmark files, beside the published values.
#
#   bash start_scripts/tables_torch.sh [--output FILE] RUN_OR_BENCHMARK_JSON...
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/_common.sh"

run_command tables "$@"
