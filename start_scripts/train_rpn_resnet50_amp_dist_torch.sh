#!/usr/bin/env bash
# Train the region proposal network alone, ResNet-50 FPN (12 epochs of COCO), on all GPUs of this
# machine, or of several (NNODES, NODE_RANK, MASTER_ADDR), with DistributedDataParallel through torchrun.
#
#   bash start_scripts/train_rpn_resnet50_amp_dist_torch.sh [--data-path DIR] [--recipe NAME] [FLAG...]
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/_common.sh"

run_distributed fasterrcnn.train \
  --recipe rpn_r50_fpn_1x --amp auto --data-path "$DATA_DIR" "$@"
