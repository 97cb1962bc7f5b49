#!/usr/bin/env bash
# Train a region proposal network alone, ResNet-50 FPN (12 epochs of COCO), in mixed precision on all GPUs of
# this machine, or of several (NNODES, NODE_RANK, MASTER_ADDR), with torchrun and DistributedDataParallel.
# --recipe picks another network or schedule; "python -m fasterrcnn recipes" lists them.
#
#   bash start_scripts/train_rpn_resnet50_amp_dist_torch.sh [--data-path DIR] [--recipe NAME] [FLAG...]
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/_common.sh"

run_distributed train \
  --recipe rpn_r50_fpn_1x_mmdetection --amp auto --data-path "$DATA_DIR" "$@"
