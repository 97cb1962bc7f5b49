#!/usr/bin/env bash
# Train Faster R-CNN ResNet-50 FPN (12 epochs of COCO) in mixed precision on one GPU, or on the CPU.
# --recipe picks another network or schedule; "python -m fasterrcnn recipes" lists them.
#
#   bash start_scripts/train_fasterrcnn_resnet50_amp_torch.sh [--data-path DIR] [--recipe NAME] [FLAG...]
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/_common.sh"

run_command train \
  --recipe fasterrcnn_r50_fpn_1x --amp auto --data-path "$DATA_DIR" "$@"
