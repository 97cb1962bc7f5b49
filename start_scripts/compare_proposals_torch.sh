#!/usr/bin/env bash
# Compare files of stored proposals of the same images: recall and AR by number of proposals, seconds per
# image and, with --fast-rcnn, the AP that a detector reaches on each of them.
#
#   bash start_scripts/compare_proposals_torch.sh FILE... --data-path DIR --split NAME [--plot FILE.png]
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/_common.sh"

run_command compare-proposals "$@"
