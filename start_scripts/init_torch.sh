#!/usr/bin/env bash
# Make the environment of this project: .venv beside the README. It is safe to run this again at any time.
#
# If the machine already has a torch and a torchvision that were tested (pyproject.toml says which) and that
# work together, they are kept, and the other packages are installed beside them. Otherwise torch and
# torchvision are installed as in requirements.txt and everything they need as in constraints.txt. Afterwards
# .venv/bin/fasterrcnn runs the commands from any folder. Nothing outside the project is changed.
#
#   bash start_scripts/init_torch.sh
#   BASE_PYTHON=python3.12 bash start_scripts/init_torch.sh    # another interpreter, 3.10 to 3.13
#   WHEELS=DIR bash start_scripts/init_torch.sh                # from a folder of wheels, no network
set -euo pipefail
source "$(dirname -- "${BASH_SOURCE[0]}")/_common.sh"
source "$(dirname -- "${BASH_SOURCE[0]}")/_install.sh"
venv=$PROJECT/.venv
requirements=$PROJECT/requirements.txt
self_test=(env PYTHONPATH="$PROJECT" "$venv/bin/python" -m fasterrcnn self-test)

if [[ -n ${DRY_RUN:-} ]]; then
  announce "${BASE_PYTHON:-python3}" -m venv "$venv"
  announce "$venv/bin/python" -m pip install -r "$requirements" --constraint "$PROJECT/constraints.txt"
  exit 0
fi
if environment_is_current && "${self_test[@]}"; then
  make_entry_point "$venv"
  exit 0
fi

base=$(find_python)
wanted=$(mktemp)
trap 'rm -f -- "$wanted"' EXIT
if has_torch "$base"; then
  echo "keeping the torch and torchvision of $base"
  make_venv "$base" "$venv" --system-site-packages
  grep -v '^torch' "$requirements" >"$wanted"
  constraints= # the packages that the kept torch came with are kept too
else
  echo "installing torch and torchvision (this can take minutes)"
  make_venv "$base" "$venv"
  cp -- "$requirements" "$wanted"
  constraints=$PROJECT/constraints.txt
fi
install_requirements "$base" "$venv/bin/python" "$wanted" "$constraints"
make_entry_point "$venv"
"${self_test[@]}" || fail 1 "$venv: the environment does not work; the message above says why"
cp -- "$requirements" "$venv/requirements.txt"
