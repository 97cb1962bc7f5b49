#!/usr/bin/env bash
# Measure the speed of training and inference, side by side with torchvision's own Faster R-CNN.
#
#   bash start_scripts/benchmark_torch.sh [--quick] [--json FILE] [--data-path DIR] [--images-per-gpu N]
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/_common.sh"

run_command benchmark --recipe fasterrcnn_r50_fpn_1x --amp auto "$@"
