#!/usr/bin/env bash
# Store what selective search proposes in the images of a split: what Fast R-CNN was trained on before there
# were region proposal networks. Needs OpenCV's contributed modules:
#   .venv/bin/pip install opencv-contrib-python-headless
#
#   bash start_scripts/selective_search_torch.sh --data-path DIR --split NAME --proposals FILE
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/_common.sh"

run_module fasterrcnn.selective_search "$@"
