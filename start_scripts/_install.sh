# shellcheck shell=bash
# Functions that make an environment (init_torch.sh, tests/run_tests.sh); sourced, never run.

# The interpreter to build on: $BASE_PYTHON, else the first suitable one on the path.
find_python() {
  local candidate
  if [[ -n ${BASE_PYTHON:-} ]]; then
    is_suitable "$BASE_PYTHON" || fail 2 "BASE_PYTHON: $BASE_PYTHON: must be Python 3.10 to 3.13"
    echo "$BASE_PYTHON"
    return
  fi
  for candidate in python3 python python3.13 python3.12 python3.11 python3.10; do
    if is_suitable "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  fail 2 "no Python 3.10 to 3.13 found; install one and set BASE_PYTHON to it"
}

is_suitable() {
  "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

# has_torch PYTHON: a torch from 2.10 on with a torchvision whose operators run with it.
has_torch() {
  "$1" 2>/dev/null - <<'END'
import torch, torchvision
version = tuple(int(part) for part in torch.__version__.split(".")[:2])
assert version >= (2, 10)
assert len(torchvision.ops.nms(torch.tensor([[0.0, 0, 1, 1]]), torch.ones(1), 0.5)) == 1
END
}

# make_venv PYTHON FOLDER [--system-site-packages]
make_venv() {
  local base=$1 venv=$2 packages
  shift 2
  "$base" -m venv --clear "$@" "$venv" >/dev/null 2>&1 ||
    "$base" -m venv --clear --without-pip "$@" "$venv" ||
    fail 1 "$venv: cannot be made with $base; install its venv module (Debian: python3-venv)"
  # A base that is itself a virtual environment does not hand its packages down.
  if [[ ${1:-} == --system-site-packages ]]; then
    packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    "$base" -c 'import sys
if sys.prefix != sys.base_prefix: print(*(p for p in sys.path if "site-packages" in p), sep="\n")
' >"$packages/base.pth"
  fi
}

# install_requirements BASE PYTHON FILE: with pip, from $WHEELS if set; names what fails.
install_requirements() {
  local base=$1 python=$2 file=$3 pip line log
  if "$python" -m pip --version >/dev/null 2>&1; then
    pip=("$python" -m pip)
  else
    pip=("$base" -m pip --python "$python")
  fi
  pip+=(install --disable-pip-version-check --quiet)
  [[ -z ${WHEELS:-} ]] || pip+=(--no-index --find-links "$WHEELS")
  log=$("${pip[@]}" -r "$file" 2>&1) && return
  while read -r line; do
    [[ -n $line && $line != \#* ]] || continue
    "${pip[@]}" "$line" >/dev/null 2>&1 && continue
    grep '^ERROR' <<<"$log" >&2 || true
    fail 1 "$line: not installed${WHEELS:+ from WHEELS=$WHEELS}; check the network and the free \
space, or put its wheel for this Python into a folder and set WHEELS to it"
  done <"$file"
}
