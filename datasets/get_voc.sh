#!/usr/bin/env bash
# Download PASCAL VOC 2007 and 2012 into datasets/voc, or into FOLDER: 3 GB, and 7 GB of free space while
# unpacking. Run it again to resume an interrupted download. VOC_URL names a mirror.
#
#   bash datasets/get_voc.sh [FOLDER]
set -euo pipefail
start_scripts=$(dirname -- "$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")")/start_scripts
# shellcheck source-path=SCRIPTDIR/../start_scripts
source "$start_scripts/_common.sh"
# shellcheck source-path=SCRIPTDIR/../start_scripts
source "$start_scripts/_install.sh"

python=$(find_python)
step "$python" -m fasterrcnn fetch voc "${1:-$PROJECT/datasets/voc}"
