#!/usr/bin/env bash
# Import a detector of MMDetection, Detectron2 or torchvision as a run that evaluates, predicts and trains.
#
#   bash start_scripts/import_torch.sh FILE -o output/RUN [--source mmdet:rpn_r50_caffe_fpn_1x]
#   bash start_scripts/import_torch.sh mmdet:rpn_r50_fpn_1x -o output/RUN    # one they publish
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/_common.sh"

run_module fasterrcnn.import_checkpoint "$@"
