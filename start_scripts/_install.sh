# shellcheck shell=bash
# Functions that make the environment. Source this file after _common.sh; do not run it.
#
# Environment variables, both optional:
#   BASE_PYTHON  interpreter to build on (default: the first suitable one on the path)
#   WHEELS       folder of wheels to install from, without a network

# find_python: print the interpreter to build on.
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

# is_suitable PYTHON: succeed for a version that this project supports.
is_suitable() {
  "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

# tested_bounds PACKAGE: print the oldest tested version of a dependency and the first untested one, from
# pyproject.toml.
tested_bounds() {
  sed -nE 's/^ *"'"$1"'>=([0-9.]+),<([0-9.]+)",$/\1 \2/p' "$PROJECT/pyproject.toml"
}

# has_torch PYTHON: succeed if it has a tested torch and torchvision, and an operator of torchvision really
# runs with that torch. Says which version is not a tested one.
has_torch() {
  local torch torchvision
  torch=$(tested_bounds torch)
  torchvision=$(tested_bounds torchvision)
  [[ $torch && $torchvision ]] || fail 1 "$PROJECT/pyproject.toml: no bounds of torch and torchvision"
  # shellcheck disable=SC2086 # two words each
  "$1" - $torch $torchvision 2>/dev/null <<'END'
import sys
import torch, torchvision

def number(version):
    return tuple(int(part) for part in version.split(".")[:2])

for package, low, high in ((torch, *sys.argv[1:3]), (torchvision, *sys.argv[3:5])):
    name, version = package.__name__, package.__version__
    if not number(low) <= number(version) < number(high):
        print(f"not keeping {name} {version}: tested are {name} {low} and newer, below {high}")
        sys.exit(1)
assert len(torchvision.ops.nms(torch.tensor([[0.0, 0, 1, 1]]), torch.ones(1), 0.5)) == 1
END
}

# make_venv PYTHON FOLDER [--system-site-packages]: make an empty environment, or one that also sees the
# packages of PYTHON.
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
' >"$packages/machine.pth" # its name sorts after fasterrcnn.pth: the project comes first
  fi
}

# make_entry_point VENV: let VENV run this project from any folder, as "VENV/bin/fasterrcnn COMMAND" and as
# "VENV/bin/python -m fasterrcnn COMMAND". Nothing is built or copied. The paths are relative, so a project
# that was moved runs itself and never another copy that now stands in its old place.
make_entry_point() {
  local venv=$1
  "$venv/bin/python" - "$PROJECT" <<'END'
import os, sys, sysconfig
packages = sysconfig.get_path("purelib")
if os.path.isdir(os.path.join(packages, "fasterrcnn")):
    sys.exit(f"error: {packages}/fasterrcnn: an installed copy hides this project; remove it with "
             f"{sys.executable} -m pip uninstall fasterrcnn")
with open(os.path.join(packages, "fasterrcnn.pth"), "w") as file:
    print(os.path.relpath(sys.argv[1], packages), file=file)
END
  cat >"$venv/bin/fasterrcnn" <<'END'
#!/bin/sh
'''exec' "$(dirname -- "$(realpath -- "$0")")/python" "$0" "$@"
'''
# To the shell the line above starts the Python of this folder; to Python it is a string. A #! line naming
# that Python would fail if its path had a space, or was moved.
from fasterrcnn.__main__ import main

if __name__ == "__main__":
    main()
END
  chmod +x -- "$venv/bin/fasterrcnn"
}

# install_requirements BASE PYTHON FILE [CONSTRAINTS]: install with pip. With WHEELS set the versions are
# those of the wheels and the constraints are left out. Names the package that cannot be installed.
install_requirements() {
  local base=$1 python=$2 file=$3 constraints=${4:-} pip line log
  if "$python" -m pip --version >/dev/null 2>&1; then
    pip=("$python" -m pip)
  else
    pip=("$base" -m pip --python "$python")
  fi
  pip+=(install --disable-pip-version-check --quiet)
  if [[ -n ${WHEELS:-} ]]; then
    pip+=(--no-index --find-links "$WHEELS")
  elif [[ -n $constraints ]]; then
    pip+=(--constraint "$constraints")
  fi
  log=$("${pip[@]}" -r "$file" 2>&1) && return
  while read -r line; do
    [[ -n $line && $line != \#* ]] || continue
    "${pip[@]}" "$line" >/dev/null 2>&1 && continue
    grep '^ERROR' <<<"$log" >&2 || true
    fail 1 "$line: not installed${WHEELS:+ from WHEELS=$WHEELS}; check the network and the free \
space, or put its wheel for this Python into a folder and set WHEELS to it"
  done <"$file"
}

# ensure_test_tools: install tests/requirements.txt into .venv, unless that was done.
ensure_test_tools() {
  local tools=$PROJECT/tests/requirements.txt installed=$PROJECT/.venv/tests-requirements.txt
  local base constraints=$PROJECT/constraints.txt
  if [[ -z ${DRY_RUN:-} ]] && uses_venv && ! cmp -s -- "$tools" "$installed"; then
    base=$(find_python)
    if grep -q '^include-system-site-packages = true' "$PROJECT/.venv/pyvenv.cfg"; then
      constraints= # the packages that the kept torch came with are kept too
    fi
    install_requirements "$base" "$PROJECT/.venv/bin/python" "$tools" "$constraints"
    cp -- "$tools" "$installed"
  fi
}
