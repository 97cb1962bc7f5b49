#!/usr/bin/env bash
# Compare stored proposals of the same images: recall and AR by number, seconds per image, and with --fast-rcnn
# the AP of a detector on each.
#
#   bash start_scripts/compare_proposals_torch.sh FILE... --data-path DIR --split NAME [--plot FILE.png]
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/_common.sh"

run_module fasterrcnn.compare_proposals "$@"
