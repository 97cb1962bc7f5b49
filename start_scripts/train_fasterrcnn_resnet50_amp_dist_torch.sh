#!/usr/bin/env bash
# Train Faster R-CNN ResNet-50 FPN (12 epochs of COCO) in mixed precision on all GPUs of this machine, or of
# several machines, with torchrun and DistributedDataParallel.
#
#   bash start_scripts/train_fasterrcnn_resnet50_amp_dist_torch.sh [--data-path DIR] [FLAG...]
#   NGPU=4 bash start_scripts/train_fasterrcnn_resnet50_amp_dist_torch.sh
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=host0 bash start_scripts/train_fasterrcnn_..._dist_torch.sh
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/_common.sh"

run_distributed train \
  --recipe fasterrcnn_r50_fpn_1x --amp auto --data-path "$DATA_DIR" "$@"
