#!/usr/bin/env bash
# Turn a detector of MMDetection, Detectron2 or torchvision into a run that can be evaluated, used and trained.
#
#   bash start_scripts/import_torch.sh FILE -o output/RUN [--source mmdet:rpn_r50_caffe_fpn_1x]
#   bash start_scripts/import_torch.sh mmdet:rpn_r50_fpn_1x -o output/RUN    # download a published one
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/_common.sh"

run_command import "$@"
