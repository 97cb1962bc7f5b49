#!/usr/bin/env bash
# Store the proposals of selective search for the images of a split. Fast R-CNN was trained on these before
# region proposal networks existed. Needs OpenCV with its contributed modules:
#
#   .venv/bin/python -m pip install "opencv-contrib-python-headless>=4.10,<6"
#   bash start_scripts/selective_search_torch.sh --data-path DIR --split NAME --proposals FILE
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/_common.sh"

run_command selective-search "$@"
