#!/usr/bin/env bash
# Compare trained detectors on one split: each metric and class with a 95 % interval of the difference, and the
# images about which they disagree most. Files of detections (COCO's result json) can be compared as well.
#
#   bash start_scripts/compare_torch.sh RUN RUN... [--split NAME] [--json FILE]
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/_common.sh"

run_command compare "$@"
