#!/usr/bin/env bash
# Evaluate a trained detector with COCO metrics, in one process or in NGPU processes.
#
#   bash start_scripts/evaluate_torch.sh --checkpoint output/RUN [--data-path DIR] [--split val]
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/_common.sh"

if [[ ${NGPU:-1} == 1 ]]; then
  run_command evaluate "$@"
else
  run_distributed evaluate "$@"
fi
