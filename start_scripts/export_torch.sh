#!/usr/bin/env bash
# Write a detector as a checkpoint of torchvision, MMDetection or Detectron2.
#
#   bash start_scripts/export_torch.sh --checkpoint output/RUN --format torchvision|mmdet|detectron2 -o FILE
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/_common.sh"

run_module fasterrcnn.export "$@"
