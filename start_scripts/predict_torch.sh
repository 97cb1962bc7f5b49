#!/usr/bin/env bash
# Detect objects in images, folders, lists, videos and cameras: writes annotated pictures and, with --json, the boxes
# in COCO's result format.
#
#   bash start_scripts/predict_torch.sh --checkpoint output/RUN [--json FILE] SOURCE...
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/_common.sh"

run_command predict "$@"
