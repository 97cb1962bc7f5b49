#!/usr/bin/env bash
# Evaluate a trained detector with COCO metrics, on one process or NGPU of them.
#
#   bash start_scripts/evaluate_torch.sh --checkpoint output/RUN [--data-path DIR] [--split val]
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/_common.sh"

if [[ ${NGPU:-1} == 1 ]]; then
  run_module fasterrcnn.evaluate "$@"
else
  run_distributed fasterrcnn.evaluate "$@"
fi
