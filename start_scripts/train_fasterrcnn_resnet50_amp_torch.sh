#!/usr/bin/env bash
# Train Faster R-CNN ResNet-50 FPN (12 epochs of COCO) on one GPU, or on the CPU, in mixed precision.
#
#   bash start_scripts/train_fasterrcnn_resnet50_amp_torch.sh [--data-path DIR] [--help] [FLAG...]
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/_common.sh"

run_module fasterrcnn.train \
  --recipe fasterrcnn_r50_fpn_1x --amp auto --data-path "$DATA_DIR" "$@"
