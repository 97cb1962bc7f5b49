#!/usr/bin/env bash
# Write a detector as a checkpoint that torchvision, MMDetection or Detectron2 can load, or as a folder for the
# Hugging Face Hub.
#
#   bash start_scripts/export_torch.sh --checkpoint output/RUN --format torchvision|mmdet|detectron2|hub -o FILE_OR_FOLDER
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/_common.sh"

run_command export "$@"
