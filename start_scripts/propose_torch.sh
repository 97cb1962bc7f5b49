#!/usr/bin/env bash
# Propose regions in images: pictures of the best ones, and with --json all boxes and scores.
#
#   bash start_scripts/propose_torch.sh --checkpoint output/RUN [--json FILE] IMAGE_OR_FOLDER...
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/_common.sh"

run_module fasterrcnn.propose "$@"
