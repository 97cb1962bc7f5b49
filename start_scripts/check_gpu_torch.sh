#!/usr/bin/env bash
# Check a machine with a GPU: what works, what limits the speed, which flags to use. It takes some minutes.
#
#   bash start_scripts/check_gpu_torch.sh [--json FILE] [--data-path DIR]
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/_common.sh"

run_command check-gpu --recipe fasterrcnn_r50_fpn_1x --amp auto "$@"
