#!/usr/bin/env bash
# Write a detector as a checkpoint that torchvision, MMDetection or Detectron2 can load, or as a file that runs
# on its own: ONNX, or torch.export's pt2.
#
#   bash start_scripts/export_torch.sh --checkpoint output/RUN --format torchvision|mmdet|detectron2|onnx|pt2 -o FILE
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/_common.sh"

run_command export "$@"
