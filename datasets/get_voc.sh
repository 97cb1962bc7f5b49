#!/usr/bin/env bash
# Download PASCAL VOC 2007 and 2012 (3 GB, 7 GB free needed) into datasets/voc, or into FOLDER.
# Run it again to resume. VOC_URL names a mirror.
#
#   bash datasets/get_voc.sh [FOLDER]
set -euo pipefail
start_scripts=$(dirname -- "$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")")/start_scripts
# shellcheck source-path=SCRIPTDIR/../start_scripts
source "$start_scripts/_common.sh"
# shellcheck source-path=SCRIPTDIR/../start_scripts
source "$start_scripts/_install.sh"

step "$(find_python)" -m fasterrcnn.fetch voc "${1:-$PROJECT/datasets/voc}"
