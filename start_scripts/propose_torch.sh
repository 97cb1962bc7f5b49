#!/usr/bin/env bash
# Propose regions in images: pictures of the best ones, and with --json all boxes and scores. Or store the
# proposals of a whole split, for Fast R-CNN to train on.
#
#   bash start_scripts/propose_torch.sh --checkpoint output/RUN --proposals FILE [--split NAME] [--training]
#   bash start_scripts/propose_torch.sh --checkpoint output/RUN [--json FILE] IMAGE_OR_FOLDER...
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/_common.sh"

run_module fasterrcnn.propose "$@"
