#!/usr/bin/env bash
# Check a data set without training: what is in it, what is wrong with it, and a page to look at in a browser.
#
#   bash start_scripts/check_data_torch.sh DIR [--val-split NAME] [--json FILE]
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/_common.sh"

run_command check-data "$@"
