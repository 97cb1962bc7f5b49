#!/usr/bin/env bash
# Write a detector as a checkpoint that torchvision, MMDetection or Detectron2 can load, as a file that runs on
# its own (ONNX, or torch.export's pt2), or as a folder for the Hugging Face Hub.
#
#   bash start_scripts/export_torch.sh --checkpoint output/RUN --format onnx -o detector.onnx
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/_common.sh"

run_command export "$@"
