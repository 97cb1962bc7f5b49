# shellcheck shell=bash
# Functions shared by the launchers. Source this file; do not run it.
#
# Environment variables, all optional:
#   NGPU        processes on this machine, one per GPU (default: every visible GPU; 1 if there is none)
#   NNODES NODE_RANK MASTER_ADDR MASTER_PORT    training on several machines: set them on each machine
#   DATA_DIR    data set folder (default: datasets/coco)
#   OUTPUT_DIR  folder that holds the run folders (default: output)
#   PYTHON      interpreter (default: .venv/bin/python of the project)
#   DRY_RUN=1   print the command and stop; needs neither the environment nor the data

PROJECT=$(dirname -- "$(dirname -- "$(realpath -- "${BASH_SOURCE[0]}")")")
PYTHON=${PYTHON:-$PROJECT/.venv/bin/python}
DATA_DIR=${DATA_DIR:-$PROJECT/datasets/coco}

fail() { # fail CODE MESSAGE
  printf 'error: %s\n' "$2" >&2
  exit "$1"
}

# visible_gpus: how many GPUs a process started now would see.
visible_gpus() {
  local ids
  if [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
    ids=${CUDA_VISIBLE_DEVICES%%,-1*}
    [[ -z $ids || $ids == -1* ]] && ids= || ids=${ids//[^,]/}x
    echo "${#ids}"
  elif command -v nvidia-smi >/dev/null; then
    nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU' || true
  else
    echo 0
  fi
}

# run_command COMMAND [FLAG...]: replace this script by a command of the project, printed first.
run_command() {
  become "$PYTHON" -m fasterrcnn "$@"
}

# run_distributed COMMAND [FLAG...]: the same under torchrun, on every GPU of NNODES machines.
run_distributed() {
  local processes=${NGPU:-$(visible_gpus)} group
  need_number NGPU "$processes" 0 9999
  need_number NNODES "${NNODES:-1}" 1 9999
  ((processes > 0)) || processes=1
  group=(--nproc-per-node="$processes")
  if ((${NNODES:-1} > 1)); then
    [[ -n ${NODE_RANK:-} && -n ${MASTER_ADDR:-} ]] ||
      fail 2 "NNODES: $NNODES: set NODE_RANK (0 to $((NNODES - 1))) and MASTER_ADDR too"
    need_number NODE_RANK "$NODE_RANK" 0 $((NNODES - 1))
    need_number MASTER_PORT "${MASTER_PORT:-29500}" 1 65535
    group+=(--nnodes="$NNODES" --node-rank="$NODE_RANK"
      --master-addr="$MASTER_ADDR" --master-port="${MASTER_PORT:-29500}")
  else
    group+=(--standalone)
  fi
  become "$PYTHON" -m fasterrcnn torchrun "${group[@]}" -m fasterrcnn "$@"
}

# need_number NAME VALUE LEAST MOST: stop with an error unless a variable's value is a whole number in
# this range.
need_number() {
  if ! [[ $2 =~ ^(0|[1-9][0-9]{0,5})$ ]] || (($2 < $3 || $2 > $4)); then
    fail 2 "$1: $2: must be a whole number, $3 to $4"
  fi
}

# become PROGRAM [ARGUMENT...]: print a command line and replace this script by it.
become() {
  announce "$@"
  [[ -z ${DRY_RUN:-} ]] || exit 0
  need_python
  exec env PYTHONPATH="$PROJECT${PYTHONPATH:+:$PYTHONPATH}" "$@"
}

# step PROGRAM [ARGUMENT...]: print one command line of a pipeline and run it. If this script receives
# SIGTERM it passes it on, so that the command can save its state; Ctrl-C reaches both anyway.
step() {
  announce "$@"
  [[ -z ${DRY_RUN:-} ]] || return 0
  env PYTHONPATH="$PROJECT${PYTHONPATH:+:$PYTHONPATH}" "$@" &
  local child=$! code=0
  trap 'kill -TERM "$child" 2>/dev/null' TERM
  trap : INT
  while
    code=0
    wait "$child" || code=$?
    kill -0 "$child" 2>/dev/null
  do :; done
  trap - TERM INT
  return "$code"
}

# flag_value FLAG DEFAULT [ARGUMENT...]: the value of the last FLAG among the arguments, else DEFAULT.
flag_value() {
  local flag=$1 value=$2
  shift 2
  while (($#)); do
    [[ $1 != "$flag" ]] || value=${2:-}
    [[ $1 != "$flag="* ]] || value=${1#*=}
    shift
  done
  printf '%s' "$value"
}

# announce PROGRAM [ARGUMENT...]: print a command line that can be pasted into a shell.
announce() {
  printf '+ PYTHONPATH=%q' "$PROJECT${PYTHONPATH:+:$PYTHONPATH}"
  printf ' %q' "$@"
  printf '\n'
}

# environment_is_current: succeeds if .venv was made from requirements.txt as it is now.
environment_is_current() {
  cmp -s -- "$PROJECT/requirements.txt" "$PROJECT/.venv/requirements.txt"
}

# uses_venv: succeeds unless PYTHON names an interpreter of the user's own.
uses_venv() {
  [[ $PYTHON == "$PROJECT/.venv/bin/python" ]]
}

# ensure_environment: make .venv if it is missing or out of date, unless PYTHON names an interpreter.
ensure_environment() {
  if [[ -z ${DRY_RUN:-} ]] && uses_venv && ! environment_is_current; then
    bash "$PROJECT/start_scripts/init_torch.sh"
  fi
}

# need_python: stop with an error unless there is an interpreter to run.
need_python() {
  if uses_venv; then
    environment_is_current ||
      fail 2 "$PROJECT/.venv: missing or out of date; run bash $PROJECT/start_scripts/init_torch.sh"
  else
    command -v -- "$PYTHON" >/dev/null || fail 2 "PYTHON: $PYTHON: not found"
  fi
}
