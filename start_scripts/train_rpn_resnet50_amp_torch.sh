#!/usr/bin/env bash
# Train the region proposal network alone, ResNet-50 FPN (12 epochs of COCO), on one GPU, or on the CPU,
# in mixed precision. --recipe picks another row of the table: python -m fasterrcnn.recipes lists them.
#
#   bash start_scripts/train_rpn_resnet50_amp_torch.sh [--data-path DIR] [--recipe NAME] [--help] [FLAG...]
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/_common.sh"

run_module fasterrcnn.train \
  --recipe rpn_r50_fpn_1x --amp auto --data-path "$DATA_DIR" "$@"
