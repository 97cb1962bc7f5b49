#!/usr/bin/env bash
# The 4-step alternating training of the Faster R-CNN paper (section 3.2): VGG-16 on PASCAL VOC 2007, on one
# GPU or on the CPU. If it is killed, the same command continues where it stopped. A longer or different
# training needs its own --output-dir. Flags are those of "fasterrcnn train".
#
#   bash start_scripts/train_fasterrcnn_vgg16_voc_alternating_torch.sh [--data-path VOC] [FLAG...]
#
# Steps 1 and 2 start from --weights (default: ImageNet). --val-split names the split to evaluate on, or none.
# RECIPE=r50_fpn_voc trains another network; any NAME with recipes rpn_NAME and fast_rcnn_NAME will do.
set -euo pipefail
DATA_DIR=${DATA_DIR:-$(dirname -- "$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")")/datasets/voc}
source "$(dirname -- "${BASH_SOURCE[0]}")/_common.sh"

recipe=${RECIPE:-vgg16_voc}
for flag in "$@"; do
  case $flag in
  --help | -h) run_command train --recipe "rpn_$recipe" --help ;;
  --recipe | --recipe=* | --detector | --detector=*)
    fail 2 "$flag: every step has its own; RECIPE=NAME chooses the network (now: RECIPE=$recipe)"
    ;;
  --val-fraction | --val-fraction=*)
    fail 2 "$flag: the four steps hold nothing out; name a split to evaluate on with --val-split, or none"
    ;;
  esac
done
run=$(realpath -m -- "$(flag_value --output-dir "${OUTPUT_DIR:-$PROJECT/output}/${recipe}_alternating" "$@")")
val=$(flag_value --val-split 2007_test "$@")
data=(--data-path "$(flag_value --data-path "$DATA_DIR" "$@")")
for flag in --dataset --workers --bad-data --check-images --max-image-pixels --device; do # the others need them too
  value=$(flag_value "$flag" "" "$@")
  [[ -z $value ]] || data+=("$flag" "$value")
done

train() { # train KIND NAME [FLAG...]: start or continue an ordinary run, unless it has finished
  local kind=$1 name=$2
  shift 2
  step "$PYTHON" -m fasterrcnn train --recipe "${kind}_$recipe" --amp auto --data-path "$DATA_DIR" \
    --eval-every 0 "$@" --output-dir "$run/$name" --skip-finished
}

propose() { # propose NAME: store what the RPN of that run proposes in the training images
  step "$PYTHON" -m fasterrcnn propose --checkpoint "$run/$1" --training \
    --proposals "$run/$1/training.proposals" "${data[@]}"
}

[[ -n ${DRY_RUN:-} ]] || need_python
train rpn 1_rpn "$@" --val-split "$val"
propose 1_rpn
train fast_rcnn 2_fast_rcnn "$@" --val-split none --proposals "$run/1_rpn/training.proposals"

fixed=(--weights "$run/2_fast_rcnn" --backbone.fixed)
train rpn 3_rpn "$@" "${fixed[@]}" --val-split "$val"
propose 3_rpn
train fast_rcnn 4_fast_rcnn "$@" "${fixed[@]}" --val-split none --proposals "$run/3_rpn/training.proposals"

step "$PYTHON" -m fasterrcnn assemble --rpn "$run/3_rpn" --fast-rcnn "$run/4_fast_rcnn" -o "$run/detector"
[[ $val == none ]] ||
  step "$PYTHON" -m fasterrcnn evaluate --checkpoint "$run/detector" --split "$val" "${data[@]}"
