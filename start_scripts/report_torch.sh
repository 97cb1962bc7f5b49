#!/usr/bin/env bash
# Write the page of a run, one HTML file: how it was trained, what its detector does well and badly.
#
#   bash start_scripts/report_torch.sh RUN [FLAG...]
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/_common.sh"

run_command report "$@"
