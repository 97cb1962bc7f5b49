#!/usr/bin/env bash
# Write the published tables for this repository: Mem, fps and AP or AR1000 measured here, beside
# those published, from run folders and benchmark files.
#
#   bash start_scripts/report_torch.sh [--output FILE] RUN_OR_BENCHMARK_JSON...
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/_common.sh"

run_module fasterrcnn.report "$@"
