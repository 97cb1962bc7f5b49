#!/usr/bin/env bash
# Download COCO 2017 into datasets/coco, or into FOLDER: 20 GB, and 45 GB of free space while unpacking.
# Run it again to resume an interrupted download. COCO_URL names a mirror.
#
#   bash datasets/get_coco.sh [FOLDER]
set -euo pipefail
start_scripts=$(dirname -- "$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")")/start_scripts
# shellcheck source-path=SCRIPTDIR/../start_scripts
source "$start_scripts/_common.sh"
# shellcheck source-path=SCRIPTDIR/../start_scripts
source "$start_scripts/_install.sh"

python=$(find_python)
step "$python" -m fasterrcnn fetch coco "${1:-$PROJECT/datasets/coco}"
