#!/usr/bin/env bash
# Measure training and inference speed against torchvision's own Faster R-CNN, side by side.
#
#   bash start_scripts/benchmark_torch.sh [--quick] [--json FILE] [--data-path DIR] [--images-per-gpu N]
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/_common.sh"

run_module fasterrcnn.benchmark --recipe fasterrcnn_r50_fpn_1x --amp auto "$@"
