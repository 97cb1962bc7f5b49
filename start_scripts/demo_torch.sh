#!/usr/bin/env bash
# From nothing to a trained detector: set up the environment, write a synthetic data set, train a small Faster
# R-CNN on it from scratch (minutes, no GPU needed), evaluate it, draw what it detects and write a page about it. Flags are those of
# "fasterrcnn train".
#
#   bash start_scripts/demo_torch.sh [FLAG...]
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/_common.sh"

ensure_environment
for flag in "$@"; do
  [[ $flag != --help && $flag != -h ]] || run_command train --recipe fasterrcnn_r10_fpn_shapes --help
done
shapes=$PROJECT/datasets/shapes
run=$(flag_value --output-dir "${OUTPUT_DIR:-$PROJECT/output}/demo" "$@")

[[ -e $shapes/annotations/instances_val.json ]] ||
  step "$PYTHON" -m fasterrcnn make-shapes --output-dir "$shapes"
step "$PYTHON" -m fasterrcnn train --recipe fasterrcnn_r10_fpn_shapes --amp auto \
  --data-path "$shapes" --output-dir "$run" --skip-finished "$@"
step "$PYTHON" -m fasterrcnn evaluate --checkpoint "$run" --images-per-gpu 8 --draw 12
step "$PYTHON" -m fasterrcnn report "$run"

echo
printf '%-36s%q\n' \
  "The trained detector:" "$run" \
  "Pictures:" "$run/pictures" \
  "Metrics:" "$run/results.json" \
  "How it was trained, what it does:" "$run/report/index.html"
printf '%-36sbash %q %s\n' \
  "Next, detect in your images:" "$PROJECT/start_scripts/predict_torch.sh" "--checkpoint ${run@Q} IMAGE..." \
  "Train on your own data:" "$PROJECT/start_scripts/train_fasterrcnn_resnet50_amp_torch.sh" "--data-path FOLDER"
