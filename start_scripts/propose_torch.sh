#!/usr/bin/env bash
# Propose regions in images: writes pictures of the best ones and, with --json, all boxes and scores. With
# --proposals it stores those of a whole split instead, for Fast R-CNN to be trained on.
#
#   bash start_scripts/propose_torch.sh --checkpoint output/RUN --proposals FILE [--split NAME] [--training]
#   bash start_scripts/propose_torch.sh --checkpoint output/RUN [--json FILE] IMAGE_OR_FOLDER...
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/_common.sh"

run_command propose "$@"
